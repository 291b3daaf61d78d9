"use strict";
// Blocks × kinds at one step: what a slider moves through, and where a component is chosen.
(() => {
  const QUANTITIES = [
    ["k", "k"],
    ["drift", "drift of k"],
    ["within", "λ within its kind"],
    ["growth", "growth of λ"],
    ["r2", "R²"],
  ];
  const TITLES = {
    k: "Shape k",
    drift: "Drift of k since the baseline, %",
    within: "λ, times the median of its kind",
    growth: "λ, times its baseline",
    r2: "R² of the probability plot's line",
  };
  const { OUTSIDE, cells, rangeOf, scale } = WM.heat;

  const show = (quantity, value) =>
    ({
      k: WM.fixed(value, 3),
      drift: `${WM.signed(value, 2)} %`,
      within: `× ${WM.round(value)}`,
      growth: `× ${WM.round(value)}`,
      r2: WM.fixed(value, 3),
    })[quantity];

  const hover = (run, frame, cell, block, kind, value) => {
    if (!cell.length || !WM.there(value)) return "";
    const head = `<b>${WM.plain(kind)}</b> · ${block === OUTSIDE ? "outside of blocks" : `block ${WM.plain(block)}`}<br>`;
    if (cell.length > 1)
      return `${head}${cell.length} matrices, ${WM.state.experts}: ${show(WM.state.quantity, value)}`;
    const drift = run.figure("drift", frame, cell[0]);
    const growth = run.figure("growth", frame, cell[0]);
    return `${head}k ${WM.fixed(run.value("k", frame, cell[0]), 3)}${WM.there(drift) ? ` (${WM.signed(drift, 2)} %)` : ""}<br>λ ${WM.round(run.value("lambda", frame, cell[0]))}${WM.there(growth) ? ` (× ${WM.round(growth)})` : ""}, × ${WM.round(run.figure("within", frame, cell[0]))} of its kind<br>R² ${WM.fixed(run.value("r2", frame, cell[0]), 3)}`;
  };

  const upright = () => WM.narrow();

  const build = () => {
    const run = WM.run();
    if (run.empty) return { title: "", message: run.empty };
    const { quantity } = WM.state;
    const range = rangeOf(run);
    if (!range) return { title: TITLES[quantity], message: "No matrix has a fit." };
    const frame = WM.frame();
    const { blocks, kinds } = run.grid;
    const values = cells(run, frame);
    const texts = run.grid.cells.map((row, i) =>
      row.map((cell, j) => hover(run, frame, cell, blocks[i], kinds[j], values[i][j])),
    );
    const { log } = range;
    const coloured = log ? values.map((row) => row.map((value) => Math.log2(value))) : values;
    const names = blocks.map((block) => (block === OUTSIDE ? "outside" : WM.plain(block)));
    const turn = (table) => (upright() ? table : table[0].map((_, j) => table.map((row) => row[j])));
    const empty = (table) => table.map((row) => row.map((value) => (Number.isFinite(value) ? value : null)));
    const [ends, ticks] = [[range.low, range.high], []];
    for (let i = 0; i <= 4; i++) ticks.push(ends[0] + (ends[1] - ends[0]) * (1e-6 + ((1 - 2e-6) * i) / 4)); // ticks at the very ends may be lost
    const height = upright()
      ? 130 + Math.max(blocks.length * (blocks.length > 40 ? 9 : 20), 160)
      : 110 + Math.max(kinds.length * (blocks.length > 48 ? 26 : 34), 120);
    const gap = Math.max(blocks.length, kinds.length) > 60 ? 0.5 : 2;
    const blockAxis = {
      title: { text: "block", standoff: 6 },
      type: "category",
      tickmode: "auto",
      nticks: upright() ? 24 : 34,
      showgrid: false,
      ticks: "",
      fixedrange: true,
    };
    const kindAxis = { type: "category", showgrid: false, ticks: "", fixedrange: true, tickangle: upright() ? -60 : 0 };
    const chosen = run.cellOf.get(run.index.get(WM.state.component));
    const at = chosen && (upright() ? [chosen[1], chosen[0]] : [chosen[0], chosen[1]]);
    return {
      title: `${TITLES[quantity]}, step ${WM.whole(run.frameSteps[frame])}`,
      height,
      label: `Heatmap of ${TITLES[quantity]} by block and kind at step ${WM.whole(run.frameSteps[frame])}: ${blocks.length} rows of blocks, ${kinds.length} kinds. Arrow keys move the choice.`,
      data: [
        {
          type: "heatmap",
          name: quantity,
          x: upright() ? kinds.map(WM.plain) : names,
          y: upright() ? names : kinds.map(WM.plain),
          z: turn(empty(coloured)),
          text: turn(texts),
          hovertemplate: "%{text}<extra></extra>",
          hoverongaps: false,
          xgap: gap,
          ygap: gap,
          zmin: ends[0],
          zmax: ends[1],
          colorscale: scale(range.kind),
          colorbar: {
            orientation: "h",
            x: 1,
            xanchor: "right",
            yref: "container",
            y: 1,
            yanchor: "top",
            thickness: 10,
            len: upright() ? 260 : 320,
            lenmode: "pixels",
            xpad: 16,
            ypad: 2,
            outlinewidth: 0,
            tickvals: ticks,
            ticktext: ticks.map((value) => (log ? `×${WM.round(2 ** value, 3)}` : WM.round(value, 3))),
            tickfont: { size: 11 },
            ticks: "",
          },
        },
      ],
      layout: {
        xaxis: WM.axisOf({ ...(upright() ? kindAxis : blockAxis), showline: false, side: "bottom" }),
        yaxis: WM.axisOf({ ...(upright() ? blockAxis : kindAxis), autorange: "reversed", showline: false }),
        margin: { l: 60, r: 12, t: 44, b: 40 },
        dragmode: false,
        shapes: at
          ? [
              {
                type: "rect",
                x0: at[0] - 0.5,
                x1: at[0] + 0.5,
                y0: at[1] - 0.5,
                y1: at[1] + 0.5,
                line: { color: WM.colour("text"), width: 2.5 },
              },
            ]
          : [],
      },
    };
  };

  /** Chooses the component of a cell: of several experts, the one whose k is lowest. */
  const choose = (run, block, kind) => {
    const cell = run.grid.cells[block]?.[kind];
    if (!cell?.length) return;
    const frame = WM.frame();
    const lowest = cell.reduce((a, b) => (run.value("k", frame, b) < run.value("k", frame, a) ? b : a));
    WM.choose(run.components[lowest].name);
  };

  const move = (event) => {
    const run = WM.run();
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!by || run.empty) return;
    event.preventDefault();
    const [down, right] = upright() ? by : [by[1], by[0]];
    const { cells: rows } = run.grid;
    let [block, kind] = run.cellOf.get(run.index.get(WM.state.component)) || [0, 0];
    do {
      block += down;
      kind += right;
    } while (rows[block]?.[kind] && !rows[block][kind].length); // passes over holes
    choose(run, block, kind);
  };

  let playing = 0;
  const play = (on) => {
    clearInterval(playing);
    playing = 0;
    const button = WM.byId("play");
    button.textContent = on ? "❚❚" : "▶";
    button.setAttribute("aria-pressed", String(on));
    if (!on) return;
    if (WM.frame() === WM.run().last) WM.setFrame(0);
    playing = setInterval(() => {
      WM.setFrame(WM.frame() + 1);
      if (WM.frame() >= WM.run().last) play(false);
    }, 180);
  };

  /** The slider and what belongs to it, as the run has it. */
  WM.showFrames = () => {
    const run = WM.run();
    const slider = WM.byId("step");
    WM.byId("heat-slider").hidden = Boolean(run.empty) || run.frames.length < 2;
    const experts = !run.empty && run.grid.cells.some((row) => row.some((cell) => cell.length > 1));
    WM.byId("heat-experts").hidden = !experts;
    if (!experts) WM.state.experts = WM.byId("heat-experts").querySelector("select").value = "median";
    WM.byId("heat-note").textContent = "";
    if (run.empty) return;
    const offered = QUANTITIES.filter(([name]) => run.baseline || (name !== "drift" && name !== "growth"));
    if (!offered.some(([name]) => name === WM.state.quantity)) WM.state.quantity = "k";
    WM.segments(WM.byId("heat-quantity"), "quantity", offered, WM.state.quantity, (value) => {
      WM.state.quantity = value;
      WM.state.quantityChosen = true;
      WM.redraw("heat");
    });
    slider.max = run.last;
    slider.value = WM.frame();
    const step = WM.whole(run.frameSteps[WM.frame()]);
    slider.setAttribute("aria-valuetext", `step ${step}`);
    WM.byId("step-label").textContent = `step ${step} of ${WM.whole(run.frameSteps[run.last])}`;
    if (run.frames.length < run.steps.length)
      WM.byId("heat-note").textContent =
        `The slider stops at ${run.frames.length} of ${WM.whole(run.steps.length)} samples; curves per kind show all of them.`;
    else if (run.frames.length < 2) WM.byId("heat-note").textContent = `One sample: step ${step}.`;
  };

  WM.startHeatmap = () => {
    WM.chart("heat", build, (plot) => {
      plot.setAttribute("role", "application"); // so that a screen reader leaves the arrow keys to it
      if (plot.dataset.listens) return;
      plot.dataset.listens = "yes";
      plot.tabIndex = 0;
      plot.setAttribute("aria-keyshortcuts", "ArrowLeft ArrowRight ArrowUp ArrowDown");
      plot.addEventListener("keydown", move);
      plot.on("plotly_click", ({ points: [point] }) => {
        const run = WM.run();
        const [i, j] = point.pointIndex || point.pointNumber;
        choose(run, upright() ? i : j, upright() ? j : i);
      });
    });
    WM.byId("heat-experts")
      .querySelector("select")
      .addEventListener("change", (event) => {
        WM.state.experts = event.target.value;
        WM.redraw("heat");
      });
    WM.byId("step").addEventListener("input", (event) => {
      play(false);
      WM.setFrame(Number(event.target.value));
    });
    WM.byId("play").addEventListener("click", () => play(!playing));
  };
})();
