"use strict";
// Where the kinds stand among those of published models.
(() => {
  const TONE = { "as published": "good", "not as published": "warning" };

  const ranges = () => {
    const run = WM.run();
    const rows = run.empty || !run.published ? [] : run.kinds.filter((kind) => kind.published);
    if (!rows.length)
      return {
        title: "Where published models lie",
        message:
          run.empty ||
          (run.published && run.published.outside && `Nothing to compare with: ${run.published.outside}.`) ||
          "Nothing comparable is published of these kinds.",
      };
    const names = rows.map((kind) => WM.plain(kind.name));
    const now = rows.map((kind) => WM.floats(kind.k, "median").at(-1));
    const start = rows.map((kind) => (run.baseline ? WM.floats(kind.k, "median")[0] : NaN));
    return {
      title: "Median k now, and where published models lie",
      height: 90 + 30 * rows.length,
      label: rows
        .map(
          (kind, i) =>
            `${kind.name}: k ${WM.fixed(now[i], 4)}, published ${WM.fixed(kind.published.low, 3)} to ${WM.fixed(kind.published.high, 3)}`,
        )
        .join("; "),
      data: [
        {
          type: "bar",
          orientation: "h",
          y: names,
          base: rows.map((kind) => kind.published.low),
          x: rows.map((kind) => kind.published.high - kind.published.low),
          name: "published",
          marker: { color: WM.faint(WM.colour("good"), 0.4) },
          width: 0.5,
          text: rows.map(
            (kind) =>
              `<b>${WM.plain(kind.name)}</b><br>${kind.published.models} published models: ${WM.fixed(kind.published.low, 3)} to ${WM.fixed(kind.published.high, 3)}`,
          ),
          textposition: "none",
          hovertemplate: "%{text}<extra></extra>",
        },
        {
          type: "scatter",
          mode: "markers",
          x: start,
          y: names,
          name: "at the start",
          marker: { symbol: "line-ns-open", size: 12, color: WM.colour("faint"), line: { width: 2 } },
          hovertemplate: "at the start: k %{x:.4f}<extra></extra>",
        },
        {
          type: "scatter",
          mode: "markers",
          x: now,
          y: names,
          name: "now",
          marker: { size: 9, color: WM.colour("c1") },
          hovertemplate: "now: k %{x:.4f}<extra></extra>",
        },
      ],
      layout: {
        showlegend: true,
        margin: { l: 80, r: 12, t: 8, b: 40 },
        xaxis: WM.axisOf({ title: { text: "shape k", standoff: 6 }, nticks: 8 }),
        yaxis: WM.axisOf({
          type: "category",
          autorange: "reversed",
          ticks: "",
          showline: false,
          showgrid: false,
          fixedrange: true,
        }),
      },
    };
  };

  const neighbours = (found) => {
    if (!found.neighbours.length)
      return [
        WM.make("h3", null, "Nearest published models"),
        WM.make("p", null, "No published model can be compared."),
      ];
    return [
      WM.make("h3", null, `Nearest published models${found.like ? "" : ", by feed-forward alone"}`),
      WM.make(
        "div",
        { class: "scroll" },
        WM.table(
          [
            { name: "Model", head: true, text: (one) => one.model },
            { name: "Distance", number: true, text: (one) => WM.fixed(one.distance, 1) },
            { name: "T·η_peak·λ_wd", number: true, text: (one) => WM.round(one.peak_time, 3) },
            {
              name: "Largest differences, in s.e.",
              text: (one) =>
                one.differences
                  .slice(0, 3)
                  .map((d) => `${d.kind} ${WM.signed(d.z, 1)}`)
                  .join(", "),
            },
          ],
          found.neighbours,
        ),
      ),
      WM.make(
        "p",
        { class: "small-print" },
        "Distance: root mean square of the differences in standard errors; about 1 between two published models of one type, and never above 2.",
      ),
    ];
  };

  const table = (found) =>
    WM.table(
      [
        { name: "Kind", head: true, text: (one) => one.kind },
        { name: "Matrices", number: true, text: (one) => WM.whole(one.matrices) },
        { name: "Median k", number: true, text: (one) => `${WM.fixed(one.k, 4)} ± ${WM.fixed(one.se, 4)}` },
        { name: "Published", number: true, text: (one) => (one.expected ? `${one.expected} (${one.models})` : "–") },
        {
          name: "Verdict",
          node: (one) => WM.make("span", { class: `badge ${TONE[one.verdict] || "muted"}` }, one.verdict),
        },
        { name: "Moved", number: true, text: (one) => one.moved },
        { name: "Drift", number: true, text: (one) => `${WM.signed(one.drift, 2)} %` },
        { name: "Severity", text: (one) => one.severity },
        { name: "Regime", text: (one) => one.regime },
      ],
      found.kinds,
      { class: "fixed" },
    );

  const odd = (run, found) => {
    if (!found.odd.length) return [];
    const row = (one) =>
      WM.make("li", null, WM.link(one.name), `${one.k === null ? "" : ` k ${WM.fixed(one.k, 3)}`}: ${one.why}`);
    return [
      WM.make("h3", null, "Matrices to look at"),
      WM.make(
        "ul",
        null,
        ...found.odd.map(row),
        found.more_odd ? WM.make("li", null, `and ${found.more_odd} more`) : null,
      ),
    ];
  };

  WM.showPublished = () => {
    const run = WM.run();
    const found = run.empty ? null : run.published;
    for (const id of ["neighbours", "published-table", "published-notes"]) WM.byId(id).hidden = !found;
    WM.byId("published-lead").textContent = found ? `Like compared with like: ${found.attention}.` : "";
    if (!found) return;
    WM.fill(WM.byId("neighbours"), ...neighbours(found));
    WM.fill(WM.byId("published-table"), WM.make("div", { class: "card scroll" }, table(found)));
    const experts = run.experts
      .slice(0, 3)
      .map((one) =>
        WM.make(
          "p",
          null,
          `${one.kind}, block ${one.block}: k of ${one.experts} experts: median ${WM.fixed(one.median, 4)}, lowest ${WM.fixed(one.lowest, 4)} (expert ${one.lowest_expert}), highest ${WM.fixed(one.highest, 4)} (expert ${one.highest_expert}).`,
        ),
      );
    WM.fill(
      WM.byId("published-notes"),
      ...odd(run, found),
      ...found.notes.map((note) => WM.make("p", null, `${note[0].toUpperCase()}${note.slice(1)}.`)),
      ...experts,
    );
  };

  WM.startPublished = () => WM.chart("ranges", ranges);
})();
