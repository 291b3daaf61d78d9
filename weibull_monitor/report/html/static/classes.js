"use strict";
// k of the two classes, with what is published and the initialisation.
(() => {
  const NAMES = {
    selection: "Selection: W_q and W_k",
    transmission: "Transmission: attention output and feed-forward",
  };

  const OF = { selection: "W_q and W_k", transmission: "attention output and feed-forward" };

  const build = (name) => () => {
    const runs = WM.runs.filter((run) => !run.empty && run.classes.some((one) => one.name === name));
    const chosen = runs.includes(WM.run()) ? WM.run() : runs[0];
    if (!chosen)
      return {
        title: NAMES[name],
        message: "No matrix of this class has a fit. Fused and unknown matrices belong to neither class.",
      };
    const of = (run) => run.classes.find((one) => one.name === name);
    const own = of(chosen);
    const several = WM.runs.length > 1;
    const data = [];
    const colourOf = (run) => (several ? WM.series(run.place) : WM.colour(name === "selection" ? "c0" : "c1"));
    data.push(
      ...WM.band(
        chosen.steps,
        WM.floats(own, "low"),
        WM.floats(own, "high"),
        WM.faint(colourOf(chosen), 0.13),
        `${chosen.name}: matrices`,
      ),
    );
    for (const run of runs) {
      const [k, drift] = [WM.floats(of(run), "k"), WM.floats(of(run), "drift")];
      const text = Array.from(
        k,
        (value, i) =>
          `${several ? `<b>${WM.plain(run.name)}</b><br>` : ""}step ${WM.whole(run.steps[i])}<br>median k ${WM.fixed(value, 3)}${WM.there(drift[i]) ? `<br>${WM.signed(drift[i], 2)} % since the baseline` : ""}`,
      );
      data.push(WM.line(run.steps, k, run.name, colourOf(run), text, { showlegend: several }));
    }
    const last = WM.floats(own, "k").at(-1);
    const shapes = [];
    const annotations = [];
    const marks = [];
    const note = (y, text, colour, yanchor) =>
      annotations.push({
        xref: "x domain",
        x: 1,
        xanchor: "right",
        y,
        yanchor,
        text,
        showarrow: false,
        font: { size: 11, color: colour },
        bgcolor: WM.faint(WM.colour("card"), 0.7),
        borderpad: 1,
      });
    if (own.published) {
      const { low, high, models } = own.published;
      shapes.push(WM.stripe(low, high, WM.faint(WM.colour("good"), 0.16)));
      const [at, side] = last > (low + high) / 2 ? [low, "bottom"] : [high, "top"]; // inside the band, away from where the curve ends
      note(
        at,
        `published ${WM.fixed(low, 3)}–${WM.fixed(high, 3)}, ${models} model${models === 1 ? "" : "s"}${name === "transmission" ? ", feed-forward" : ""}`,
        WM.colour("good"),
        side,
      );
      marks.push(low, high);
    }
    if (own.start) {
      shapes.push({
        type: "line",
        xref: "x domain",
        x0: 0,
        x1: 1,
        y0: own.start.k,
        y1: own.start.k,
        layer: "below",
        line: { color: WM.colour("muted"), width: 1, dash: "dash" },
      });
      note(own.start.k, `${own.start.name} initialisation ${WM.fixed(own.start.k, 3)}`, WM.colour("muted"), "bottom");
      marks.push(own.start.k);
    }
    const core = WM.extent(...runs.map((run) => WM.floats(of(run), "k")), marks);
    const reach = core && WM.extent(WM.floats(own, "low"), WM.floats(own, "high"));
    const range =
      core &&
      WM.roomy(
        [Math.max(reach[0], core[0] - (core[1] - core[0])), Math.min(reach[1], core[1] + (core[1] - core[0]))].map(
          (end, i) => (i ? Math.max(end, core[1]) : Math.min(end, core[0])),
        ),
        0.01,
      );
    const alerts = chosen.alerts.filter(
      (alert) => alert.severity !== "info" && alert.components.some((one) => chosen.classOf(one) === name),
    );
    data.push(...WM.alertMarks(alerts, { yaxis: "y2" }));
    return {
      title: own.adapters ? `What adapters add to ${OF[name]}` : NAMES[name],
      data,
      height: 330,
      label: `k of the class ${name} over the steps: ${WM.fixed(last, 4)} at step ${WM.whole(chosen.steps.at(-1))}${own.published ? `; published ${WM.fixed(own.published.low, 3)} to ${WM.fixed(own.published.high, 3)}` : ""}.`,
      layout: {
        shapes: [...shapes, ...WM.alertLines(alerts)],
        annotations,
        showlegend: several,
        xaxis: WM.stepAxis(chosen.steps),
        yaxis: WM.shapeAxis(range, { title: { text: "shape k", standoff: 8 }, nticks: 7 }),
        yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      },
    };
  };

  // The size of attention logits for inputs of unit size: median and highest over the blocks.
  const attention = () => {
    const title = "Scale of attention";
    const runs = WM.runs.filter((run) => !run.empty && run.attention);
    const chosen = runs.includes(WM.run()) ? WM.run() : runs[0];
    if (!chosen)
      return { title, message: "Not known: queries and keys are normalised, or there is no W_q and W_k with a fit." };
    const several = WM.runs.length > 1;
    const colourOf = (run) => (several ? WM.series(run.place) : WM.colour("c0"));
    const [low, high] = ["low", "high"].map((end) => WM.floats(chosen.attention, end));
    const data = WM.band(chosen.steps, low, high, WM.faint(colourOf(chosen), 0.13), `${chosen.name}: blocks`);
    for (const run of runs) {
      const [middle, most] = ["median", "high"].map((name) => WM.floats(run.attention, name));
      const text = Array.from(
        middle,
        (value, i) =>
          `${several ? `<b>${WM.plain(run.name)}</b><br>` : ""}step ${WM.whole(run.steps[i])}<br>median ${WM.fixed(value, 3)}, highest ${WM.fixed(most[i], 3)}`,
      );
      data.push(WM.line(run.steps, middle, run.name, colourOf(run), text, { showlegend: several }));
    }
    const alerts = chosen.alerts.filter((alert) => alert.rule === "attention_scale");
    return {
      title,
      data,
      height: 330,
      label: `Scale of attention over the steps: median ${WM.fixed(WM.floats(chosen.attention, "median").at(-1), 3)}, highest ${WM.fixed(high.at(-1), 3)} at step ${WM.whole(chosen.steps.at(-1))}.`,
      layout: {
        shapes: WM.alertLines(alerts),
        showlegend: several,
        xaxis: WM.stepAxis(chosen.steps),
        yaxis: WM.logAxis(
          runs.flatMap((run) => ["low", "high"].map((end) => WM.floats(run.attention, end))),
          { title: { text: "RMS_q·RMS_k·d_in", standoff: 8 } },
        ),
      },
    };
  };

  // How far the last step moved the matrices of each class, in units of their size: median, and that which went furthest.
  const updates = () => {
    const title = "Last update";
    const run = WM.run();
    const shown = run.empty ? [] : run.classes.filter((one) => one.update);
    if (!shown.length) return { title, message: "Not read: it needs updates=True." };
    const data = shown.flatMap((one, place) =>
      ["median", "high"].map((end) => {
        const values = WM.floats(one.update, end);
        const name = `${one.name}, ${end === "high" ? "furthest" : "median"}`;
        const text = Array.from(values, (v, i) => `step ${WM.whole(run.steps[i])}<br>${name}: ${WM.fixed(100 * v, 3)} %`);
        const line = WM.line(run.steps, values, name, WM.series(place), text, { showlegend: true });
        if (end === "high") line.line = { ...line.line, dash: "dot" };
        return line;
      }),
    );
    return {
      title,
      data,
      height: 330,
      label: `Last update over the steps: ${shown.map((one) => `${one.name} ${WM.fixed(100 * WM.floats(one.update, "median").at(-1), 3)} % of the size of a matrix`).join(", ")}.`,
      layout: {
        shapes: WM.alertLines(run.alerts.filter((alert) => alert.rule.startsWith("update_"))),
        showlegend: true,
        xaxis: WM.stepAxis(run.steps),
        yaxis: WM.logAxis(
          shown.flatMap((one) => ["median", "high"].map((end) => WM.floats(one.update, end))),
          { title: { text: "RMS(u)·η/RMS(w)", standoff: 8 } },
        ),
      },
    };
  };

  /** Says what the charts show, and nothing that they do not. */
  WM.showClasses = () => {
    const run = WM.run();
    const classes = run.empty ? [] : run.classes;
    const several = run.steps.length > 1;
    WM.byId("classes-lead").textContent = [
      "Median over the matrices of a class (line), and their lowest and highest (shade).",
      classes.some((one) => one.published) ? "Green: where published models lie." : "Nothing comparable is published.",
      several && classes.some((one) => one.start) ? "Dashed: the initialisation." : "",
    ].join(" ");
  };

  WM.startClasses = () => {
    for (const name of Object.keys(NAMES)) WM.chart(`class-${name}`, build(name));
    WM.chart("attention", attention);
    WM.chart("updates", updates);
  };
})();
