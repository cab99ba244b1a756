// The chart: what was, what is forecast with its interval, and what came.

import { amount, element, moment, number } from "./texts.js";

const HEIGHT = 380;

/** Draws into `place` and follows its width and the colour scheme. */
export class Chart {
  constructor(place) {
    this.place = place;
    this.plot = null;
    this.view = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.view && this.draw(this.view));
  }

  /**
   * @param {object} view `times` in seconds; `past`, `came`, `middle`, `lower`, `upper` as long, null where nothing is;
   *   `origin` in seconds; `level`, `scale`, `axis` (text), `zone`, `title`.
   */
  draw(view) {
    this.view = view;
    this.plot?.destroy();
    this.place.replaceChildren();
    const { scale, zone } = view;
    const color = name => getComputedStyle(this.place).getPropertyValue(`--${name}`).trim();
    const text = color("soft"), grid = { stroke: color("line"), width: 1 }, font = "12px system-ui, sans-serif";
    const value = (_, raw) => amount(raw, scale);
    const line = (label, name, more = {}) => ({ label, value, stroke: color(name), width: 2, points: { show: false }, ...more });
    const edge = (label, more = {}) => line(label, "band-edge", { width: 1, ...more });
    const bounds = (_, raw, __, i) => (i === null || view.lower[i] === null ? "–"
      : `${amount(view.lower[i], scale)} to ${amount(view.upper[i], scale)}`);
    const points = name => ({ show: true, size: 6, fill: color("card"), stroke: color(name), width: 2 });
    const many = view.middle.filter(found => found !== null).length > 30;
    this.plot = new uPlot({
      ...this.size(),
      tzDate: at => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      padding: [16, 12, 0, 4],
      cursor: { points: { size: 8 } },
      legend: { markers: { width: 0, fill: (plot, i) => plot.series[i].stroke(plot, i) } },
      series: [
        { label: "Time", value: (_, raw) => (raw === null ? "–" : `${moment(raw)}${zone}`) },
        line("Reported", "past"),
        line("What came", "came", { points: many ? { show: false } : points("came") }),
        edge(`${view.level} interval`, { value: bounds }),
        line("Forecast", "forecast", { width: 2.5, points: many ? { show: false } : points("forecast") }),
        edge("to"), // the legend has one entry for both edges
      ],
      bands: [{ series: [5, 3], fill: color("band") }],
      axes: [
        { stroke: text, grid, ticks: grid, font, values: timeTicks },
        { stroke: text, grid, ticks: grid, font, size: 64, label: view.axis, labelFont: font, labelSize: 22,
          values: (_, found) => found.map(raw => number(raw / scale.factor, 3)) },
      ],
      scales: { x: { time: true }, y: { range: (_, low, high) => padded(low, high) } },
      hooks: { draw: [plot => markOrigin(plot, view.origin, text, font)] },
    }, [view.times, view.past, view.came, view.lower, view.middle, view.upper], this.place);
    this.plot.root.ariaHidden = "true"; // said by the label and, in full, by the table of steps
    Object.assign(this.place, { role: "img", ariaLabel: view.title });
  }

  clear(message) {
    this.plot?.destroy();
    this.plot = this.view = null;
    Object.assign(this.place, { role: "status", ariaLabel: null });
    this.place.replaceChildren(element("p", { class: "empty" }, message));
  }

  size() {
    return { width: Math.max(280, this.place.clientWidth), height: innerWidth < 640 ? 280 : HEIGHT };
  }
}

/** Clock times, and the date where a new day begins; the 24-hour clock. */
function timeTicks(_, ticks) {
  return ticks.map((at, i) => {
    const [date, clock] = moment(at).split(" ");
    return i === 0 || moment(ticks[i - 1]).slice(0, 10) !== date ? `${clock}\n${date}` : clock;
  });
}

/** From zero, if values are not negative, with some air above. */
function padded(low, high) {
  if (low === null || high === null) return [0, 1];
  const air = 0.06 * (high - Math.min(low, 0)) || 1;
  return [low >= 0 ? 0 : low - air, high + air];
}

function markOrigin(plot, origin, color, font) {
  const { ctx, bbox } = plot, x = Math.round(plot.valToPos(origin, "x", true)), ratio = devicePixelRatio;
  if (x < bbox.left || x > bbox.left + bbox.width) return;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = color;
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 4 * ratio]);
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.font = font.replace("12px", `${11 * ratio}px`);
  ctx.textAlign = "right";
  ctx.textBaseline = "top";
  ctx.fillText("last known row", x - 6 * ratio, bbox.top + 2 * ratio);
  ctx.restore();
}
