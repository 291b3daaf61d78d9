"use strict";
// The figures of the heatmap's cells, and which colours stand for them.
(() => {
  const KEEP = 0.985; // of the values lie within the colours; what lies beyond has the last one
  const OUTSIDE = "–"; // the row of matrices outside of blocks, as weibull_monitor.model.components.grid has it
  const ranges = new WeakMap();

  const combine = (values, how) => {
    const there = values.filter(WM.there).sort((a, b) => a - b);
    if (!there.length) return NaN;
    const middle = (there.length - 1) / 2;
    if (how === "low") return there[0];
    if (how === "high") return there.at(-1);
    if (how === "spread") return there.at(-1) - there[0];
    return (there[Math.floor(middle)] + there[Math.ceil(middle)]) / 2;
  };

  const cells = (run, frame) => {
    const { quantity, experts } = WM.state;
    return run.grid.cells.map((row) =>
      row.map((cell) =>
        experts === "spread" && cell.length < 2
          ? NaN
          : combine(
              cell.map((one) => run.figure(quantity, frame, one)),
              cell.length > 1 ? experts : "median",
            ),
      ),
    );
  };

  /** The figures of the cells of blocks, over the steps: an embedding is not to take the colours of the blocks. */
  const figures = (run) => {
    const every = Math.max(1, Math.floor(run.frames.length / 24));
    const inside = run.grid.blocks.map((block) => block !== OUTSIDE);
    const wanted = inside.some(Boolean) ? inside : inside.map(() => true);
    const found = [];
    run.frames.forEach((_, frame) => {
      if (frame % every && frame !== run.last) return;
      cells(run, frame).forEach((row, i) => {
        if (wanted[i]) found.push(...row.filter(Number.isFinite));
      });
    });
    return found.sort((a, b) => a - b);
  };

  /** The middle of the colours: where nothing has happened. */
  const middleOf = (run, quantity) => {
    if (quantity === "drift") return 0;
    if (quantity === "growth" || quantity === "within") return 1;
    const anchors = run.kinds.map((kind) => kind.start?.k);
    const known = combine(anchors, "median");
    return WM.there(known) ? known : WM.NORMAL;
  };

  const measure = (run) => {
    const { quantity, experts } = WM.state;
    const values = figures(run);
    if (!values.length) return null;
    const at = (share) => values[Math.round(share * (values.length - 1))];
    const ends = [at(KEEP), at(1 - KEEP)];
    if (experts === "spread") return { low: 0, high: ends[0] || 1, kind: "one" };
    if (quantity === "r2") return { low: Math.min(0.95, ends[1]), high: 1, kind: "low" };
    const middle = middleOf(run, quantity);
    if (quantity === "growth" || quantity === "within") {
      // in doublings; one matrix that is out of line is what this is for, and must not be cut off with the outermost values
      const least = quantity === "within" ? 1.25 : 1.02;
      const reach = Math.max(Math.log2(least), ...(quantity === "within" ? [values[0], values.at(-1)] : ends).map((value) => Math.abs(Math.log2(Math.max(value, 1e-6)))));
      return { low: -reach, high: reach, log: true, kind: "two" };
    }
    const reach = Math.max(quantity === "drift" ? 1 : 0.01, ...ends.map((value) => Math.abs(value - middle)));
    return { low: middle - reach, high: middle + reach, kind: "two" };
  };

  /** Lowest and highest of the colours: the same at every step, so that steps can be compared. */
  const rangeOf = (run) => {
    const key = `${WM.state.quantity} ${WM.state.experts}`;
    if (!ranges.has(run)) ranges.set(run, {});
    const known = ranges.get(run);
    if (!(key in known)) known[key] = measure(run);
    return known[key];
  };

  const scale = (kind) => {
    const [low, middle, high] = ["heat-low", "heat-middle", "heat-high"].map(WM.colour);
    if (kind === "two")
      return [
        [0, WM.colour("heat-lowest")],
        [0.25, low],
        [0.5, middle],
        [0.75, high],
        [1, WM.colour("heat-highest")],
      ];
    return kind === "low"
      ? [
          [0, WM.colour("heat-lowest")],
          [0.5, low],
          [1, middle],
        ]
      : [
          [0, middle],
          [0.5, high],
          [1, WM.colour("heat-highest")],
        ];
  };

  WM.heat = { OUTSIDE, cells, rangeOf, scale };
})();
