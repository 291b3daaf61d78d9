"use strict";
// Several runs: a table of differences, and λ against √(η/λ_wd) across them.
(() => {
  const AXES = {
    effective: ["√I, effective √(η/λ<sub>wd</sub>)", "√(λ² − λ<sub>0</sub>²·e<sup>−2S</sup>)"],
    plain: ["√(η/λ<sub>wd</sub>), highest η", "λ at the end"],
  };

  const differences = (found) => {
    const cell = (row, i) => {
      const apart = i && WM.there(row.k[i]) && WM.there(row.k[0]) ? row.k[i] - row.k[0] : NaN;
      return WM.there(apart) ? `${WM.fixed(row.k[i], 4)} (${WM.signed(apart, 4)})` : WM.fixed(row.k[i], 4);
    };
    const scale = (row, i) =>
      WM.there(row.lambda[i]) && WM.there(row.lambda[0]) ? `× ${WM.fixed(row.lambda[i] / row.lambda[0], 3)}` : "–";
    return WM.table(
      [
        { name: "Of", head: true, value: (row) => row.of, text: (row) => row.of },
        ...found.runs.map((name, i) => ({
          name: `k · ${name}`,
          number: true,
          value: (row) => row.k[i],
          text: (row) => cell(row, i),
        })),
        ...found.runs.slice(1).map((name, i) => ({
          name: `λ · ${name}`,
          number: true,
          value: (row) => row.lambda[i + 1],
          text: (row) => scale(row, i + 1),
        })),
        { name: "Furthest in k", number: true, value: (row) => row.apart, text: (row) => WM.fixed(row.apart, 4) },
      ],
      found.rows,
      { sortable: true },
    );
  };

  const sweep = () => {
    const found = WM.data.sweep;
    const group = found && found.groups.find((one) => one.name === WM.state.sweepGroup);
    if (!group) return { title: "", message: "These runs cannot be set against each other; the reasons stand below." };
    const which = WM.state.sweepX;
    const pick = which === "plain" ? (end) => [end.plain, end.lambda_] : (end) => [end.effective, end.grown];
    const points = group.ends.map((end) => [...pick(end), end.run]).filter(([x, y]) => WM.there(x) && WM.there(y));
    const line = group[which];
    if (!points.length || !line)
      return {
        title: group.name,
        message: `No run has ${which === "plain" ? "√(η/λ_wd): none had weight decay" : "√I"}.`,
      };
    const most = 1.08 * Math.max(...points.map(([x]) => x));
    const colour = (run) =>
      WM.series(
        Math.max(
          0,
          WM.runs.findIndex((one) => one.name === run),
        ),
      );
    const data = [];
    if (WM.there(line.low))
      data.push({
        type: "scatter",
        mode: "lines",
        x: [0, most, most, 0],
        y: [0, line.low * most, line.high * most, 0],
        fill: "toself",
        fillcolor: WM.faint(WM.colour("faint"), 0.2),
        line: { width: 0 },
        hoverinfo: "skip",
        name: "95 %",
      });
    data.push({
      type: "scatter",
      mode: "lines",
      x: [0, most],
      y: [0, line.slope * most],
      line: { color: WM.colour("muted"), width: 1.5, dash: "dash" },
      hoverinfo: "skip",
      name: "through the origin",
    });
    data.push({
      type: "scatter",
      mode: points.length > 8 || WM.narrow() ? "markers" : "markers+text",
      x: points.map(([x]) => x),
      y: points.map(([, y]) => y),
      text: points.map(([, , run]) => WM.plain(WM.short(run, 20))),
      textposition: "top center",
      textfont: { size: 11 },
      marker: { size: 10, color: points.map(([, , run]) => colour(run)) },
      hovertemplate: "<b>%{text}</b><br>%{x:.4g}, λ %{y:.4g}<extra></extra>",
      name: "runs",
      cliponaxis: false,
    });
    return {
      title: `${group.name}: slope ${WM.round(line.slope, 3)}${WM.there(line.r) ? `, r = ${WM.fixed(line.r, 3)}` : ""}${WM.there(line.cv) ? `, spread ${WM.fixed(100 * line.cv, 1)} %` : ""}`,
      data,
      height: 400,
      label: `λ at the end of ${points.length} runs, ${group.name}: slope ${WM.round(line.slope, 3)}.`,
      layout: {
        xaxis: WM.axisOf({ title: { text: AXES[which][0], standoff: 8 }, rangemode: "tozero" }),
        yaxis: WM.axisOf({ title: { text: AXES[which][1], standoff: 8 }, rangemode: "tozero" }),
      },
    };
  };

  WM.showRuns = () => {
    const { differences: found, sweep: across } = WM.data;
    WM.byId("runs").hidden = WM.runs.length < 2;
    if (found) {
      const late = found.steps.some((step) => step !== found.step)
        ? ` Samples: ${found.runs.map((name, i) => `${name} at ${WM.whole(found.steps[i])}`).join(", ")}.`
        : "";
      WM.byId("runs-lead").textContent =
        `Medians at step ${WM.whole(found.step)}, which all runs have reached; in brackets the difference from ${found.runs[0]}. Classes first, then the kinds that differ most.${late}`;
      WM.fill(WM.byId("differences"), WM.make("div", { class: "card scroll" }, differences(found)));
    } else WM.byId("runs-lead").textContent = "Fewer than two of the runs have samples.";
    if (WM.runs.length > 1)
      WM.fill(
        WM.byId("unlike"),
        WM.make("div", { class: "card scroll" }, WM.make("h3", null, "Facts that differ"), WM.factsTable(true)),
      );
    WM.byId("sweep-box").hidden = !across;
    if (!across) return;
    const names = across.groups.map((one) => one.name);
    if (!names.includes(WM.state.sweepGroup))
      WM.state.sweepGroup = names.includes("transmission") ? "transmission" : names[0];
    WM.options(
      WM.byId("sweep-group"),
      names.map((name) => [name, name]),
      WM.state.sweepGroup,
    );
    WM.fill(
      WM.byId("sweep-notes"),
      ...Object.entries(across.left_out).map(([name, reason]) => WM.make("p", null, `${name}: ${reason}.`)),
    );
  };

  WM.startRuns = () => {
    WM.chart("sweep", sweep);
    WM.byId("sweep-group").addEventListener("change", (event) => {
      WM.state.sweepGroup = event.target.value;
      WM.redraw("sweep");
    });
    WM.segments(
      WM.byId("sweep-x"),
      "sweep-x",
      [
        ["effective", "√I"],
        ["plain", "√(η/λ_wd)"],
      ],
      WM.state.sweepX,
      (value) => {
        WM.state.sweepX = value;
        WM.redraw("sweep");
      },
    );
  };
})();
