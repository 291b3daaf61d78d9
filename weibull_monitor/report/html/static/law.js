"use strict";
// λ against what the schedule is worth, and where it is going.
(() => {
  const ALL = "all kinds";
  const withLaw = (run) => (run.empty ? [] : run.kinds.filter((kind) => kind.law));

  /** [run, kind, colour, name] of what is drawn. */
  const shown = () => {
    const several = WM.runs.length > 1;
    const found = [];
    for (const run of WM.runs) {
      withLaw(run).forEach((kind) => {
        if (WM.state.lawKind === ALL && !kind.law.covered) return;
        if (WM.state.lawKind !== ALL && kind.name !== WM.state.lawKind) return;
        if (WM.state.lawKind === ALL && several && run !== WM.run()) return;
        const byRun = several && WM.state.lawKind !== ALL;
        found.push([run, kind, WM.series(byRun ? run.place : run.kinds.indexOf(kind)), byRun ? run.name : kind.name]);
      });
    }
    return found;
  };

  /** Why there is nothing to draw. */
  const nothing = () => {
    const run = WM.run();
    if (run.empty) return run.empty;
    return run.withheld.length
      ? "There is no √I to set λ against; the reasons stand below."
      : "There is no √I to set λ against: no optimizer was followed.";
  };

  const law = () => {
    const found = shown();
    if (!found.length) return { title: "λ against √I", message: nothing() };
    const data = found.flatMap(([run, kind, colour, name]) => {
      const [root, scale, line, ratio] = [
        WM.floats(kind.law, "root"),
        WM.floats(kind.lambda, "median"),
        WM.floats(kind.law, "line"),
        WM.floats(kind.law, "ratio"),
      ];
      const text = Array.from(
        scale,
        (value, i) =>
          `<b>${WM.plain(name)}</b><br>step ${WM.whole(run.steps[i])}<br>λ ${WM.round(value)}, √I ${WM.round(root[i])}${WM.there(ratio[i]) ? `<br>c ${WM.round(ratio[i], 3)}` : ""}`,
      );
      return [
        {
          type: "scatter",
          mode: "lines",
          x: root,
          y: line,
          name: `${WM.plain(name)}: the law`,
          line: { color: colour, width: 1.5, dash: "dash" },
          hoverinfo: "skip",
          showlegend: false,
        },
        {
          type: "scatter",
          mode: scale.length > 80 ? "lines" : "lines+markers",
          x: root,
          y: scale,
          name: WM.plain(name),
          line: { color: colour, width: 2 },
          marker: { size: 4 },
          text,
          hovertemplate: "%{text}<extra></extra>",
        },
        {
          type: "scatter",
          mode: "markers",
          x: [root.at(-1)],
          y: [scale.at(-1)],
          name: `${WM.plain(name)}: now`,
          marker: { color: colour, size: 9, line: { color: WM.colour("card"), width: 1.5 } },
          text: [text.at(-1)],
          hovertemplate: "%{text}<extra></extra>",
          showlegend: false,
        },
      ];
    });
    const says = found
      .filter(([, kind]) => WM.there(kind.law.c))
      .map(([, kind, , name]) => `${name} ${WM.round(kind.law.c, 3)}`)
      .join(", ");
    return {
      title:
        found.length === 1 && WM.there(found[0][1].law.c)
          ? `λ against √I: c = ${WM.round(found[0][1].law.c, 3)}`
          : "λ against √I",
      data,
      height: 380,
      label: `Scale λ against the effective √(η/λ_wd). Budget ratio c now: ${says || "not known"}.`,
      layout: {
        showlegend: found.length > 1,
        xaxis: WM.axisOf({
          title: { text: "√I, effective √(η/λ<sub>wd</sub>)", standoff: 8 },
          nticks: WM.narrow() ? 5 : 8,
          rangemode: "tozero",
        }),
        yaxis: WM.axisOf({ title: { text: "λ, in units of the weights", standoff: 8 }, nticks: 7 }),
      },
    };
  };

  const forecast = () => {
    const found = shown().filter(([, kind]) => WM.floats(kind.law, "forecast").some(Number.isFinite));
    if (!found.length)
      return {
        title: "Forecast of λ",
        message: shown().length ? "No λ has been forecast; the reasons stand below." : nothing(),
      };
    const alone = found.length <= 3;
    const data = [];
    for (const [run, kind, colour, name] of found) {
      const [value, low, high, scale] = ["forecast", "low", "high"]
        .map((key) => WM.floats(kind.law, key))
        .concat([WM.floats(kind.lambda, "median")]);
      const from = value.findIndex(Number.isFinite);
      const foretold = (i) =>
        `<b>${WM.plain(name)}</b><br>forecast at step ${WM.whole(run.steps[i])} for step ${WM.whole(run.total)}<br>λ ${WM.round(value[i])}, within ${WM.round(low[i])} to ${WM.round(high[i])}`;
      const steps = run.steps.slice(from);
      if (alone)
        data.push(...WM.band(steps, low.slice(from), high.slice(from), WM.faint(colour, 0.14), `${name}: interval`));
      data.push(
        WM.line(
          steps,
          value.slice(from),
          `${name}: forecast`,
          colour,
          steps.map((_, i) => foretold(from + i)),
          { mode: "lines", showlegend: false, line: { color: colour, width: 1.5, dash: "dot" } },
        ),
      );
      data.push(
        WM.line(
          run.steps,
          scale,
          name,
          colour,
          Array.from(
            scale,
            (one, i) => `<b>${WM.plain(name)}</b><br>step ${WM.whole(run.steps[i])}<br>λ ${WM.round(one)}`,
          ),
          { mode: "lines", showlegend: found.length > 1 },
        ),
      );
      const last = value.findLastIndex(Number.isFinite);
      if (run.total && run.steps.at(-1) < run.total && last >= 0) {
        data.push({
          type: "scatter",
          mode: "markers",
          x: WM.onAxis([run.total]),
          y: [value[last]],
          name: `${WM.plain(name)}: at the end`,
          showlegend: false,
          marker: { color: colour, size: 9, symbol: "diamond" },
          error_y: {
            type: "data",
            symmetric: false,
            array: [high[last] - value[last]],
            arrayminus: [value[last] - low[last]],
            color: colour,
            thickness: 1.5,
            width: 5,
          },
          text: [foretold(last)],
          hovertemplate: "%{text}<extra></extra>",
        });
      }
    }
    const most = Math.max(...found.map(([run]) => Math.max(run.total || 0, run.steps.at(-1))));
    return {
      title: "λ (line) and what was forecast of its end (dotted)",
      data,
      height: 380,
      label: `λ over the steps, and its forecast with interval: ${found.map(([, kind, , name]) => `${name} ${WM.round(WM.floats(kind.law, "forecast").findLast(Number.isFinite))}`).join(", ")}.`,
      layout: {
        showlegend: found.length > 1,
        xaxis: WM.stepAxis([...WM.run().steps, most]),
        yaxis: WM.axisOf({ title: { text: "λ, in units of the weights", standoff: 8 }, nticks: 7 }),
      },
    };
  };

  WM.showLaw = () => {
    const names = [...new Set(WM.runs.flatMap((run) => withLaw(run).map((kind) => kind.name)))];
    const select = WM.byId("law-kind");
    if (![ALL, ...names].includes(WM.state.lawKind)) {
      const usual = ["ffn_down", "ffn_out", "attn_o", "ffn_up", "ffn_in"].find((name) => names.includes(name));
      WM.state.lawKind = WM.runs.length > 1 ? usual || names[0] || ALL : ALL;
    }
    WM.options(
      select,
      [ALL, ...names].map((name) => [name, name]),
      WM.state.lawKind,
    );
    select.closest("div").hidden = names.length < 2;
    const run = WM.run();
    const why = run.empty ? [] : run.withheld;
    WM.fill(
      WM.byId("law-why"),
      ...why.map(([count, words]) =>
        WM.make(
          "p",
          null,
          `No forecast of λ for ${WM.whole(count)} of ${WM.whole(run.components.length)} matrices: ${words}.`,
        ),
      ),
    );
  };

  WM.startLaw = () => {
    WM.state.lawKind = null;
    WM.chart("law", law);
    WM.chart("forecast", forecast);
    WM.byId("law-kind").addEventListener("change", (event) => {
      WM.state.lawKind = event.target.value;
      WM.redraw("law", "forecast");
    });
  };
})();
