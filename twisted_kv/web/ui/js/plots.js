// Rates and times of the last two minutes, drawn by uPlot. What is newest stands in the legend, as text.

import { $, el, say } from "./dom.js";
import { clock, figure } from "./format.js";

const KEPT = 120;
const GAP_S = 5; // where nothing was heard for so long the line is broken

class Plot {
  /** series: of each its label, its colour's number, whether it is dashed, and how it is read from rates. */
  constructor(id, series) {
    this.place = $(`${id}-plot`);
    this.series = series;
    this.data = [[], ...series.map(() => [])];
    this.newest = series.map(({ label, colour, dashed }) => {
      const number = el("b", {}, "–");
      $(`${id}-legend`).append(el("li", { class: `series-${colour}` }, el("i", { class: dashed ? "dashed" : null }), label, number));
      return number;
    });
    new ResizeObserver(() => this.resize()).observe(this.place);
    document.addEventListener("themed", () => this.build());
    this.build();
  }

  add(now_s, rates) {
    const times = this.data[0];
    if (times.length && now_s - times.at(-1) > GAP_S) this.push(times.at(-1) + 1, this.series.map(() => null));
    const figures = this.series.map(({ of }) => (rates ? of(rates) : null));
    this.push(now_s, figures);
    figures.forEach((number, at) => say(this.newest[at], figure(number)));
    this.plot?.setData(this.data, false);
    this.plot?.setScale("x", { min: times.at(-1) - KEPT, max: times.at(-1) });
  }

  push(time, figures) {
    [time, ...figures].forEach((number, at) => {
      this.data[at].push(number);
      while (this.data[at].length > KEPT + 1) this.data[at].shift();
    });
  }

  resize() {
    this.plot?.setSize({ width: this.place.clientWidth, height: this.place.clientHeight });
  }

  build() {
    const uPlot = globalThis.uPlot;
    if (!uPlot) return;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `11px ${colour("--sans")}` };
    this.plot?.destroy();
    this.plot = new uPlot(
      {
        width: this.place.clientWidth || 300,
        height: this.place.clientHeight || 190,
        legend: { show: false },
        cursor: { show: false },
        padding: [8, 26, 0, 0],
        scales: { y: { range: (_, low, high) => [0, Math.max(1, (high || 0) * 1.1)] } },
        axes: [
          { ...axis, grid: { show: false }, size: 26, space: 90, values: (_, times) => times.map(clock) },
          { ...axis, size: 46, values: (_, numbers) => numbers.map((number) => figure(number)) },
        ],
        series: [
          {},
          ...this.series.map(({ label, colour: number, dashed }) => ({
            label,
            stroke: colour(`--series-${number}`),
            width: 1.75,
            dash: dashed ? [5, 4] : undefined,
            points: { show: false },
          })),
        ],
      },
      this.data,
      this.place,
    );
    // Nobody can do anything here; what is in it is in the legend.
    this.plot.root.setAttribute("aria-hidden", "true");
    const last = this.data[0].at(-1);
    if (last) this.plot.setScale("x", { min: last - KEPT, max: last });
  }
}

let plots = [];

export function wirePlots() {
  plots = [
    new Plot("rates", [
      { label: "reads", colour: 1, of: (rates) => rates.per_s.read },
      { label: "writes", colour: 2, of: (rates) => rates.per_s.write },
      { label: "failed", colour: 3, of: (rates) => rates.failed_per_s + rates.refused_per_s },
    ]),
    new Plot("times", [
      { label: "read p50", colour: 1, dashed: true, of: (rates) => rates.p50_ms.read },
      { label: "p99", colour: 1, of: (rates) => rates.p99_ms.read },
      { label: "write p50", colour: 2, dashed: true, of: (rates) => rates.p50_ms.write },
      { label: "p99", colour: 2, of: (rates) => rates.p99_ms.write },
    ]),
  ];
}

export function showPlots({ now_ms, rates }) {
  for (const plot of plots) plot.add(now_ms / 1000, rates);
}
