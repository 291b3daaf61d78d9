"use strict";
// The probability plot of the chosen matrix: where its line comes from, and why R² is what it is.
(() => {
  const SHARES = [0.0005, 0.01, 0.1, 0.3, 0.632, 0.9, 0.99, 0.9999];
  const height = (share) => Math.log(-Math.log1p(-share));
  const LEAST = 0.003; // from which share on the plot is shown before anyone zooms
  const decade = (power) =>
    `10${[...String(power)].map((digit) => ({ "-": "⁻" })[digit] || "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
  const percent = (share) => `${+(100 * share).toPrecision(4)} %`;

  /** The recorded plot that belongs to what is asked for. */
  const plotAt = (run) => {
    const { steps } = run.plots;
    if (!steps.length) return -1;
    return WM.state.plot === "last"
      ? steps.length - 1
      : Math.max(
          0,
          steps.findLastIndex((step) => step <= WM.state.plot),
        );
  };

  const meaning = (r2) => {
    if (!WM.there(r2)) return "";
    if (r2 < 0.95)
      return "The points bend: this matrix holds more than one population, often two of different sizes, and k describes none of them.";
    if (r2 < 0.99)
      return "The points bend away from the line within the fitted range: k describes this matrix roughly.";
    return "The points keep to the line: one k describes the matrix.";
  };

  const facts = (run, step, k, lambda, r2, at) => {
    const component = run.components[at];
    const first = run.baseline ? [run.value("k", 0, at), run.value("lambda", 0, at)] : null;
    const pairs = [
      ["kind", component.kind],
      ["shape", `${component.shape.join(" × ")} · ${component.dtype}`],
      [`k at step ${WM.whole(step)}`, WM.fixed(k, 3) + (first ? ` (${WM.signed(100 * (k / first[0] - 1), 2)} %)` : "")],
      ["λ", WM.round(lambda) + (first ? ` (× ${WM.round(lambda / first[1])})` : "")],
      ["R²", WM.fixed(r2, 3)],
    ];
    WM.fill(
      WM.byId("matrix-facts"),
      ...pairs.flatMap(([name, value]) => [
        WM.make("div", null, WM.make("dt", null, name), WM.make("dd", null, value)),
      ]),
      WM.make("p", null, meaning(r2)),
    );
  };

  const build = () => {
    const run = WM.run();
    WM.fill(WM.byId("matrix-facts"));
    if (run.empty) return { title: "", message: run.empty };
    const name = WM.state.component;
    const at = run.index.get(name);
    if (at === undefined) return { title: "", message: "Choose a matrix: in the heatmap, or by its name." };
    const plot = plotAt(run);
    const step = plot < 0 ? run.frameSteps[WM.frame()] : run.plots.steps[plot];
    const frame = run.frameAt(step);
    const [k, lambda, r2] = ["k", "lambda", "r2"].map((column) => run.value(column, frame, at));
    facts(run, run.frameSteps[frame], k, lambda, r2, at);
    const log = run.quantiles(plot, at);
    if (!log)
      return {
        title: name,
        message:
          plot < 0
            ? "This history holds no probability plots: it was written by a version that did not record them."
            : "No probability plot of this matrix was recorded: of very large models, single experts have none.",
      };
    const { levels } = run.plots;
    const y = levels.map(height);
    const first = run.plots.steps[0] === 0 && plot > 0 ? run.quantiles(0, at) : null;
    const inside = levels.map((share) => share >= 0.1 - 1e-9 && share <= 0.9 + 1e-9);
    const text = levels.map(
      (share, i) =>
        `${percent(share)} of the values lie below ${WM.round(Math.exp(log[i]))}<br>the line says ${WM.round(Math.exp(Math.log(lambda) + y[i] / k))}`,
    );
    const [low, high] = [y[0] - 0.3, y.at(-1) + 0.3];
    const shownFrom = Math.max(low, height(LEAST));
    const seen = WM.extent(...[log, first || []].map((values) => values.filter((_, i) => levels[i] >= LEAST)));
    const room = 0.03 * (seen[1] - seen[0]);
    const powers = Array.from({ length: 24 }, (_, i) => i - 18);
    const lineX = [low, high].map((value) => Math.exp(Math.log(lambda) + value / k));
    const apart = log.map((value, i) => value - (Math.log(lambda) + y[i] / k));
    const accent = WM.colour("c0");
    const grey = WM.colour("faint");
    const data = [];
    if (first)
      data.push({
        type: "scatter",
        mode: "lines+markers",
        x: first.map(Math.exp),
        y,
        name: "baseline, step 0",
        line: { color: grey, width: 1 },
        marker: { color: grey, size: 5 },
        text: levels.map((share, i) => `baseline: ${percent(share)} below ${WM.round(Math.exp(first[i]))}`),
        hovertemplate: "%{text}<extra></extra>",
      });
    data.push({
      type: "scatter",
      mode: "lines",
      x: lineX,
      y: [low, high],
      name: "fitted line",
      line: { color: WM.colour("c1"), width: 2 },
      hoverinfo: "skip",
    });
    data.push({
      type: "scatter",
      mode: "markers",
      x: log.map(Math.exp),
      y,
      name: `step ${WM.whole(step)}`,
      text,
      hovertemplate: "%{text}<extra></extra>",
      marker: {
        size: 7,
        color: inside.map((is) => (is ? accent : WM.colour("card"))),
        line: { color: accent, width: 1.5 },
      },
    });
    data.push({
      type: "scatter",
      mode: "lines+markers",
      x: log.map(Math.exp),
      y: apart.map((value) => 100 * (Math.exp(value) - 1)),
      yaxis: "y2",
      name: "off the line",
      showlegend: false,
      line: { color: accent, width: 1 },
      marker: { size: 4, color: accent },
      text: apart.map(
        (value, i) => `${percent(levels[i])}: ${WM.signed(100 * (Math.exp(value) - 1), 1)} % off the line`,
      ),
      hovertemplate: "%{text}<extra></extra>",
    });
    const off = Math.max(
      2,
      1.4 * Math.max(...apart.map((value, i) => (inside[i] ? Math.abs(100 * (Math.exp(value) - 1)) : 0))),
    );
    return {
      title: WM.short(name, WM.narrow() ? 32 : 90),
      data,
      height: WM.narrow() ? 460 : 500,
      label: `Probability plot of ${name} at step ${WM.whole(step)}: k ${WM.fixed(k, 4)}, λ ${WM.round(lambda)}, R² ${WM.fixed(r2, 4)}. ${meaning(r2)}`,
      layout: {
        showlegend: true,
        shapes: [
          WM.stripe(height(0.1), height(0.9), WM.faint(accent, 0.09)),
          {
            type: "line",
            xref: "x domain",
            yref: "y2",
            x0: 0,
            x1: 1,
            y0: 0,
            y1: 0,
            line: { color: WM.colour("c1"), width: 1.5 },
          },
        ],
        annotations: [
          {
            xref: "x domain",
            x: 0.01,
            xanchor: "left",
            y: height(0.9),
            yanchor: "top",
            text: "fitted: 10–90 %",
            showarrow: false,
            font: { size: 11, color: accent },
          },
        ],
        xaxis: WM.axisOf({
          type: "log",
          title: { text: "|w|, in units of the weights", standoff: 6 },
          anchor: "y2",
          range: [(seen[0] - room) / Math.LN10, (seen[1] + room) / Math.LN10],
          tickvals: powers.flatMap((power) => [10 ** power, 3 * 10 ** power]),
          ticktext: powers.flatMap((power) => [decade(power), `3·${decade(power)}`]),
        }),
        yaxis: WM.axisOf({
          domain: [0.3, 1],
          title: { text: "share of values below", standoff: 4 },
          tickvals: SHARES.map(height),
          ticktext: SHARES.map(percent),
          range: [shownFrom, high],
        }),
        yaxis2: WM.axisOf({
          domain: [0, 0.22],
          title: { text: "off line, %", standoff: 4 },
          range: [-off, off],
          nticks: 5,
        }),
      },
    };
  };

  /** The list of matrices, the steps that plots were recorded at, and what is chosen. */
  WM.showMatrices = () => {
    const run = WM.run();
    if (run.empty) return;
    WM.fill(
      WM.byId("matrices"),
      ...run.components.map((component) => WM.make("option", { value: component.name }, component.kind)),
    );
    const last = run.plots.steps.length - 1;
    WM.options(
      WM.byId("plot-step"),
      run.plots.steps.map((step, i) => [
        i === last ? "last" : step,
        `${WM.whole(step)}${step === 0 ? " (baseline)" : ""}`,
      ]),
      last < 0 ? "" : WM.state.plot === "last" ? "last" : run.plots.steps[plotAt(run)],
    );
    WM.byId("matrix-pick").hidden = WM.byId("matrix-jump").hidden = run.components.length < 2;
    WM.byId("plot-step").closest("label").hidden = run.plots.steps.length < 2;
  };

  WM.showChoice = () => {
    WM.byId("matrix").value = WM.state.component || "";
  };

  const furthest = (run, distance) => {
    const frame = WM.frame();
    const values = run.components.map((_, i) => distance(frame, i));
    return values.reduce((best, value, i) => (Number.isFinite(value) && !(value >= values[best]) ? i : best), 0);
  };

  const JUMPS = [
    ["lowest R²", (run) => furthest(run, (frame, i) => run.value("r2", frame, i))],
    ["lowest k", (run) => furthest(run, (frame, i) => run.value("k", frame, i))],
    ["largest drift", (run) => furthest(run, (frame, i) => -Math.abs(run.figure("drift", frame, i)))],
  ];

  WM.startProbability = () => {
    WM.chart("probability", build);
    const input = WM.byId("matrix");
    input.addEventListener("change", () => {
      const run = WM.run();
      if (run.empty || input.value === WM.state.component) return;
      const wanted = input.value.trim();
      const found = run.index.has(wanted)
        ? wanted
        : wanted && run.components.find((component) => component.name.includes(wanted))?.name;
      if (found) WM.choose(found);
      else {
        WM.say(`No matrix is called ${wanted}.`);
        WM.showChoice();
      }
    });
    WM.fill(
      WM.byId("matrix-jump"),
      ...JUMPS.map(([text, find]) =>
        WM.make(
          "button",
          {
            type: "button",
            class: "small",
            onclick: () => {
              const run = WM.run();
              if (!run.empty) WM.choose(run.components[find(run)].name);
            },
          },
          text,
        ),
      ),
    );
    WM.byId("plot-step").addEventListener("change", (event) => {
      WM.state.plot = event.target.value === "last" ? "last" : Number(event.target.value);
      WM.redraw("probability");
    });
  };
})();
