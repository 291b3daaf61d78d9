"use strict";
// What a run's data mean: base64 columns to typed arrays when they are first looked at.
(() => {
  const bytes = (text) => {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out.buffer;
  };

  /** The numbers under a key; they take the place of the text that they were. */
  WM.floats = (holder, key) => {
    if (typeof holder[key] === "string") holder[key] = new Float32Array(bytes(holder[key]));
    return holder[key];
  };

  const MISSING = 65535;

  /** One of the 16-bit integers of a packed table, as the number that it stands for; NaN if there is none. */
  const unpack = (table, columns, row, column) => {
    if (typeof table.data === "string") table.data = new Uint16Array(bytes(table.data));
    const value = table.data[row * columns + column];
    if (value === MISSING || value === undefined) return NaN;
    const low = WM.floats(table, "low")[column];
    return low + (value / (MISSING - 1)) * (WM.floats(table, "high")[column] - low);
  };

  /** One run as the page asks for it. Steps of single matrices are those of the frames. */
  WM.Run = class {
    constructor(raw, place) {
      Object.assign(this, raw);
      this.place = place;
      this.empty = raw.empty || null;
      if (this.empty) return;
      this.index = new Map(this.components.map((component, i) => [component.name, i]));
      this.frameSteps = this.frames.map((frame) => this.steps[frame]);
      this.cellOf = new Map();
      this.grid.cells.forEach((row, block) =>
        row.forEach((cell, kind) => {
          for (const component of cell) this.cellOf.set(component, [block, kind]);
        }),
      );
    }

    /** The class of a component, by its name. */
    classOf(name) {
      const component = this.components[this.index.get(name)];
      return component && this.kinds.find((kind) => kind.name === component.kind)?.class;
    }

    get last() {
      return this.frames.length - 1;
    }

    /** k, lambda or r2 of a component at a frame. */
    value(column, frame, component) {
      return unpack(this.series[column], this.components.length, frame, component);
    }

    /** A figure of the heatmap: k, r2, λ over the median of its kind, or what has become of k (in per cent) or λ (a factor). */
    figure(quantity, frame, component) {
      if (quantity === "within") return this.value("lambda", frame, component) / this.usual(frame, component);
      if (quantity === "k" || quantity === "r2" || quantity === "lambda") return this.value(quantity, frame, component);
      if (!this.baseline) return NaN;
      if (quantity === "drift") return 100 * (this.value("k", frame, component) / this.value("k", 0, component) - 1);
      return this.value("lambda", frame, component) / this.value("lambda", 0, component);
    }

    /** The median λ of a component's kind at a frame, in its own tower: other towers have other widths. */
    usual(frame, component) {
      this.medians ??= new Map();
      const { kind, tower } = this.components[component];
      const key = `${frame} ${tower || ""} ${kind}`;
      if (!this.medians.has(key)) {
        const values = this.components
          .flatMap((one, i) => (one.kind === kind && one.tower === tower ? [this.value("lambda", frame, i)] : []))
          .filter(Number.isFinite)
          .sort((a, b) => a - b);
        const middle = (values.length - 1) / 2;
        this.medians.set(key, values.length ? (values[Math.floor(middle)] + values[Math.ceil(middle)]) / 2 : NaN);
      }
      return this.medians.get(key);
    }

    curve(column, component) {
      return this.frames.map((_, frame) => this.value(column, frame, component));
    }

    /** The frame at a step, or the last one before it. */
    frameAt(step) {
      let found = 0;
      this.frameSteps.forEach((at, frame) => {
        if (at <= step) found = frame;
      });
      return found;
    }

    /** ln|w| at the recorded shares, of one of the recorded steps; null if there are none. */
    quantiles(plot, component) {
      if (!this.plots.steps.length || component === undefined) return null;
      const columns = this.plots.steps.length * this.components.length;
      const column = plot * this.components.length + component;
      const found = this.plots.levels.map((_, row) => unpack(this.plots, columns, row, column));
      return found.every(Number.isNaN) ? null : found;
    }
  };
})();
