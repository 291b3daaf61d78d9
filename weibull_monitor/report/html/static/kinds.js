"use strict";
// A panel a kind: k, λ or R² over the steps.
(() => {
  const QUANTITIES = [
    ["k", "k"],
    ["lambda", "λ"],
    ["r2", "R²"],
  ];
  const AXES = { k: "shape k", lambda: "scale λ", r2: "lowest R²" };

  const curve = (kind, quantity) =>
    quantity === "r2"
      ? { median: WM.floats(kind, "r2") }
      : Object.fromEntries(["median", "low", "high", "se"].map((key) => [key, WM.floats(kind[quantity], key)]));
  const number = (quantity, value) => (quantity === "lambda" ? WM.round(value) : WM.fixed(value, 3));

  const panel = (label, place, columns, rows) => {
    const suffix = place ? String(place + 1) : "";
    const [column, row] = [place % columns, Math.floor(place / columns)];
    const [gapX, gapY] = [columns > 1 ? 0.07 : 0, rows > 1 ? Math.min(0.24, 62 / (rows * 200)) : 0];
    const wide = (1 - gapX * (columns - 1)) / columns;
    const x = [column * (wide + gapX), column * (wide + gapX) + wide];
    const high = (1 - gapY * (rows - 1)) / rows;
    const top = 1 - row * (high + gapY);
    return {
      label,
      xaxis: `x${suffix}`,
      yaxis: `y${suffix}`,
      xkey: `xaxis${suffix}`,
      ykey: `yaxis${suffix}`,
      x,
      y: [Math.max(0, top - high), top],
    };
  };

  const build = () => {
    const run = WM.run();
    if (run.empty) return { title: "", message: run.empty };
    const runs = WM.runs.filter((one) => !one.empty);
    const { kindsQuantity: quantity } = WM.state;
    const labels = [...new Set(runs.flatMap((one) => one.kinds.map((kind) => kind.name)))];
    const columns = WM.narrow() ? 1 : document.body.clientWidth < 1000 ? 2 : 3;
    const rows = Math.ceil(labels.length / columns);
    const several = WM.runs.length > 1;
    const layout = {
      showlegend: several,
      shapes: [],
      annotations: [],
      margin: { l: 50, r: 12, t: several ? 56 : 30, b: 40 },
      legend: {
        orientation: "h",
        x: 0,
        yref: "container",
        y: 1,
        yanchor: "top",
        font: { size: 11 },
        traceorder: "normal",
      },
    };
    const data = [];
    const chosen = run.components[run.index.get(WM.state.component)];
    labels.forEach((label, place) => {
      const at = panel(label, place, columns, rows);
      const axes = { xaxis: at.xaxis, yaxis: at.yaxis };
      const alerts = run.alerts.filter(
        (alert) =>
          alert.severity !== "info" &&
          alert.components.some((name) => run.components[run.index.get(name)]?.kind === label),
      );
      for (const one of runs) {
        const kind = one.kinds.find((other) => other.name === label);
        if (!kind) continue;
        const shown = curve(kind, quantity);
        const colour = several
          ? WM.series(one.place)
          : WM.colour({ selection: "c0", transmission: "c1", mixed: "c3" }[kind.class] || "c6");
        if (one === run && shown.low) {
          if (kind.matrices > 1)
            data.push(...WM.band(one.steps, shown.low, shown.high, WM.faint(colour, 0.13), `${label}: blocks`, axes));
          const around = (sign) => Array.from(shown.median, (value, i) => value + sign * 2 * shown.se[i]);
          data.push(...WM.band(one.steps, around(-1), around(1), WM.faint(colour, 0.3), `${label}: noise`, axes));
        }
        const text = Array.from(
          shown.median,
          (value, i) =>
            `<b>${WM.plain(label)}</b>${several ? ` · ${WM.plain(one.name)}` : ""}<br>step ${WM.whole(one.steps[i])}<br>${quantity === "r2" ? "lowest R²" : `median ${quantity === "k" ? "k" : "λ"}`} ${number(quantity, value)}${shown.se ? ` ± ${WM.round(2 * shown.se[i], 2)}` : ""}${shown.low && kind.matrices > 1 ? `<br>blocks ${number(quantity, shown.low[i])} to ${number(quantity, shown.high[i])}` : ""}`,
        );
        data.push(
          WM.line(one.steps, shown.median, several ? one.name : label, colour, text, {
            ...axes,
            showlegend: several && place === 0,
            legendgroup: one.name,
            meta: several ? `${one.name}: ${label}` : label,
            mode: one.steps.length > 30 ? "lines" : "lines+markers",
          }),
        );
        if (one === run && shown.low && kind.published && quantity === "k") {
          const { low, high } = kind.published;
          const place = { xref: `${at.xaxis} domain`, yref: at.yaxis };
          layout.shapes.push(WM.stripe(low, high, WM.faint(WM.colour("good"), 0.15), place));
        }
      }
      if (chosen && chosen.kind === label) {
        const place = run.index.get(WM.state.component);
        const y = run.curve(quantity, place);
        data.push(
          WM.line(
            run.frameSteps,
            y,
            WM.short(chosen.name),
            WM.colour("text"),
            y.map(
              (value, i) =>
                `<b>${WM.plain(WM.short(chosen.name))}</b><br>step ${WM.whole(run.frameSteps[i])}: ${number(quantity, value)}`,
            ),
            { ...axes, mode: "lines", showlegend: false, line: { color: WM.colour("text"), width: 1.5, dash: "dot" } },
          ),
        );
      }
      const marks = `y${labels.length + place + 1}`;
      data.push(...WM.alertMarks(alerts, { xaxis: at.xaxis, yaxis: marks }));
      layout.shapes.push(...WM.alertLines(alerts, { xref: at.xaxis, yref: `${at.yaxis} domain` }));
      if (alerts.length)
        layout[`yaxis${labels.length + place + 1}`] = {
          overlaying: at.yaxis,
          anchor: at.xaxis,
          range: [0, 1],
          visible: false,
          fixedrange: true,
        };
      const bottom = place + columns >= labels.length;
      layout[at.xkey] = WM.stepAxis(run.steps, {
        domain: at.x,
        anchor: at.yaxis,
        nticks: 5,
        matches: place ? "x" : undefined,
        title: { text: bottom ? "optimizer step" : "", standoff: 4 },
      });
      const own = run.kinds.find((kind) => kind.name === label);
      const now = own && curve(own, quantity).median.at(-1);
      const range = rangeOf(runs, run, label, quantity);
      layout[at.ykey] = (quantity === "k" ? WM.shapeAxis : (_, more) => WM.axisOf(more))(range, {
        domain: at.y,
        anchor: at.xaxis,
        nticks: 5,
        range,
        title: { text: place % columns ? "" : AXES[quantity], standoff: 4 },
      });
      layout.annotations.push({
        xref: `${at.xaxis} domain`,
        yref: `${at.yaxis} domain`,
        x: 0,
        y: 1,
        xanchor: "left",
        yanchor: "bottom",
        yshift: 3,
        showarrow: false,
        text: `<b>${WM.plain(label)}</b>  ${own ? number(quantity, now) : ""}`,
        font: { size: 12 },
      });
    });
    return {
      title: {
        k: "Shape k",
        lambda: "Scale λ, in units of the weights",
        r2: "R² of the probability plot's line, the lowest block",
      }[quantity],
      data,
      layout,
      height: (several ? 56 : 30) + rows * (WM.narrow() ? 210 : 218) + 20,
      label: `${AXES[quantity]} of ${labels.length} kinds over the steps, a panel each: ${run.kinds.map((kind) => `${kind.name} ${number(quantity, curve(kind, quantity).median.at(-1))}`).join(", ")}.`,
    };
  };

  /** So that medians and blocks are seen; what is published joins in if it is not far away. */
  const rangeOf = (runs, run, label, quantity) => {
    const kinds = runs.map((one) => one.kinds.find((kind) => kind.name === label)).filter(Boolean);
    const own = run.kinds.find((kind) => kind.name === label);
    const parts = kinds.map((kind) => curve(kind, quantity).median);
    if (own && quantity !== "r2") {
      const { median, low, high, se } = curve(own, quantity);
      parts.push(
        low,
        high,
        median.map((value, i) => value - 2 * se[i]),
        median.map((value, i) => value + 2 * se[i]),
      );
    }
    let range = WM.extent(...parts);
    if (range && own?.published && quantity === "k") {
      const wider = WM.extent(range, [own.published.low, own.published.high]);
      if (wider[1] - wider[0] < 4 * (range[1] - range[0]) + 0.03) range = wider;
    }
    return range && WM.roomy(range, quantity === "lambda" ? 0 : 0.004);
  };

  WM.startKinds = () => WM.chart("kinds", build);

  WM.showKinds = () => {
    WM.segments(WM.byId("kinds-quantity"), "kinds-quantity", QUANTITIES, WM.state.kindsQuantity, (value) => {
      WM.state.kindsQuantity = value;
      WM.state.kindsChosen = true;
      WM.redraw("kinds");
    });
  };
})();
