"use strict";
// Light and dark, and what charts have in common.
(() => {
  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"; // as the style sheet has it
  const KEY = "weibull-report-theme";
  const store = {
    get: () => {
      try {
        return localStorage.getItem(KEY);
      } catch {
        return null;
      }
    },
    set: (value) => {
      try {
        localStorage.setItem(KEY, value);
      } catch {
        /* a page of a file may not keep anything */
      }
    },
  };
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = store.get();
  let printing = false;

  WM.dark = () => !printing && (chosen ? chosen === "dark" : prefersDark.matches);

  WM.applyTheme = () => {
    document.documentElement.dataset.theme = WM.dark() ? "dark" : "light";
    const button = WM.byId("theme");
    button.textContent = WM.dark() ? "☀ Light" : "☾ Dark";
    button.setAttribute("aria-label", WM.dark() ? "Switch to the light theme" : "Switch to the dark theme");
  };

  WM.startTheme = (changed) => {
    WM.applyTheme();
    WM.byId("theme").addEventListener("click", () => {
      chosen = WM.dark() ? "light" : "dark";
      store.set(chosen);
      WM.applyTheme();
      changed();
    });
    prefersDark.addEventListener("change", () => {
      WM.applyTheme();
      changed();
    });
    const print = (on) => {
      printing = on;
      document.documentElement.classList.toggle("printing", on); // as wide as paper, before charts are drawn
      WM.applyTheme();
    };
    addEventListener("beforeprint", () => {
      print(true);
      WM.drawAll();
    });
    addEventListener("afterprint", () => {
      print(false);
      changed();
    });
  };

  WM.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  WM.series = (i) => WM.colour(`c${i % 9}`);
  WM.severity = { error: "bad", warning: "warning", info: "muted" };

  /** A colour with some of it taken away. */
  WM.faint = (hex, share) => {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return `rgba(${r},${g},${b},${share})`;
  };

  WM.narrow = () => document.body.clientWidth < 640;
  const touch = matchMedia("(pointer: coarse)").matches;

  WM.axisOf = (more) => ({
    gridcolor: WM.colour("grid"),
    linecolor: WM.colour("axis"),
    tickcolor: WM.colour("axis"),
    zeroline: false,
    ticks: "outside",
    ticklen: 4,
    showline: true,
    automargin: true,
    fixedrange: touch,
    tickfont: { size: WM.narrow() ? 10 : 11 },
    ...more,
    title: { font: { size: 12, color: WM.colour("muted") }, ...(more.title || {}) },
  });

  /** A logarithmic axis, with labels at 1, 2 and 5 times each power of ten: at the powers only over more than three of them. */
  WM.logAxis = (many, more) => {
    const [low, high] = WM.extent(...many.map((values) => values.filter((value) => value > 0))) || [1, 1];
    const [first, last] = [Math.floor(Math.log10(low)) - 1, Math.ceil(Math.log10(high)) + 1];
    const heads = Math.log10(high / low) > 3 ? [1] : [1, 2, 5];
    const powers = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    const tickvals = powers.flatMap((power) => heads.map((head) => Number(`${head}e${power}`)));
    return WM.axisOf({ type: "log", tickvals, ticktext: tickvals.map(String), ...more });
  };

  /** An axis of k: as many decimals as its range needs. */
  WM.shapeAxis = (range, more) => {
    const span = range ? range[1] - range[0] : 1;
    return WM.axisOf({ range, tickformat: span > 0.5 ? ".1f" : span > 0.06 ? ".2f" : ".3f", ...more });
  };

  WM.layoutOf = (more) => ({
    font: {
      family: FONT,
      size: WM.narrow() ? 11 : 12,
      color: WM.colour("text"),
    },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 54, r: WM.narrow() ? 8 : 16, t: 12, b: 44 },
    hovermode: "closest",
    hoverdistance: 30,
    dragmode: touch ? false : "zoom",
    hoverlabel: {
      bgcolor: WM.colour("card"),
      bordercolor: WM.colour("axis"),
      font: { family: FONT, color: WM.colour("text"), size: 12 },
      align: "left",
    },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 }, traceorder: "normal" },
    showlegend: false,
    uirevision: "kept",
    ...more,
  });
})();
