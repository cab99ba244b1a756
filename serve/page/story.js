// The leaderboard and the model's story.

import { amount, duration, element, NONE, number, percent, plural, scaleFor, tile } from "./texts.js";

const find = id => document.getElementById(id);
const COLUMNS = [
  ["rmse_bits", "RMSE", "Root mean squared error. Lower is better.", (v, s) => number(v / s.factor)],
  ["mae_bits", "MAE", "Mean absolute error. Lower is better.", (v, s) => number(v / s.factor)],
  ["skill_vs_persistence", "Skill", "How much lower the RMSE is than that of repeating the last value.", v => percent(v, 1, true)],
  ["mase", "MASE", "MAE over that of repeating the last value on the training rows.", v => number(v)],
  ["coverage_90", "Coverage", "Share of outcomes inside the interval.", v => percent(v)],
  ["interval_width_bits", "Width", "Mean width of the interval.", (v, s) => number(v / s.factor)],
  ["dm_p_vs_persistence", "p", "Diebold-Mariano test against persistence: small means that the difference is not chance.",
    v => (v < 0.001 ? "< 0.001" : v.toFixed(3))],
];
const VERDICTS = { promoted: "promoted", kept: "kept as champion" };

/** Show how the champion scored on one station (on all, where there is one), or why that is not known. */
export function showBoard(story, series, stations, target) {
  const { leaderboard: { protocol, rows }, verdict, model, run } = story;
  const shown = rows.filter(row => row.target === target && row.series === (stations > 1 ? series : "*"));
  const scale = scaleFor(shown.map(row => row.rmse_bits), protocol.target_unit);
  const champion = shown.find(row => row.model === model.kind);
  const from = protocol.scored_from[series], to = protocol.scored_to[series];
  find("story-state").textContent =
    `Run ${run}: ${model.kind.toUpperCase()} was ${VERDICTS[verdict.state] ?? verdict.state}. Every model forecast the same ` +
    `${plural(shown[0]?.n ?? 0, "test row")}${from ? `, from ${clock(from)} to ${clock(to)}` : ""}.`;
  find("story-tiles").replaceChildren(...(champion ? tilesOf(champion, shown, protocol, scale) : []));
  const [caption, head, body] = find("board").children;
  caption.textContent = `Leaderboard on the test rows of ${series}; RMSE, MAE and width in ${scale.unit}`;
  head.replaceChildren(element("tr", {}, element("th", { scope: "col" }, "Model"),
    ...COLUMNS.map(([, label, hint]) => element("th", { scope: "col", title: hint }, label))));
  body.replaceChildren(...shown.map(row => rowOf(row, row === champion, scale)));
  find("board").hidden = false;
  find("reasons").hidden = verdict.reasons.length === 0;
  find("reasons").lastElementChild.replaceChildren(...verdict.reasons.map(reason => element("li", {}, reason)));
}

/** Say why there is no leaderboard. */
export function showNoBoard(message) {
  find("story-state").textContent = message;
  find("story-tiles").replaceChildren();
  find("board").hidden = find("reasons").hidden = true;
}

/** Show what the model reads and what it was made from. */
export function showFacts(info, station) {
  const { model, step_s: step } = info;
  const span = rows => (rows ? `${plural(rows.rows, "row")}, ${clock(rows.time_start)} to ${clock(rows.time_end)}` : null);
  const facts = [
    ["Model", `${model.kind.toUpperCase()}, ${model.name} version ${model.version}`],
    ["Made", `${clock(info.created_at)} UTC`],
    ["Forecasts", `${info.targets.join(", ")} in ${info.unit} per ${duration(step)}; ${plural(info.direct_steps, "step")} at once ` +
      `(${duration(info.direct_steps * step)}), more by feeding forecasts back`],
    ["Reads", `the last ${plural(info.lookback, "row")} (${duration(info.lookback * step)}); its averages and daily profile reach ` +
      `${plural(info.context_rows, "row")} back (${duration(info.context_rows * step)})`],
    ...Object.entries(info.features).filter(([, names]) => names.length).map(([group, names]) =>
      [`Features ${group}`, `${names.length}: ${names.join(", ")}`]),
    ["Trained on", span(station.train)],
    ["Tested on", span(station.test)],
    ["Data quality", station.train && quality(station)],
    ["Regime breaks", station.train && (station.regime_breaks.length
      ? `${station.regime_breaks.join(", ")}: other values in the test rows than in training`
      : "none between training and test rows")],
    ["Dataset", info.dataset_found ? model.dataset_id : `${model.dataset_id}: not in the store that this service reads`],
    ["Tracking run", model.run_id],
  ];
  find("facts").replaceChildren(...facts.filter(([, text]) => text).flatMap(([name, text]) =>
    [element("dt", {}, name), element("dd", {}, text)]));
}

function tilesOf(champion, shown, protocol, scale) {
  const ridge = shown.find(row => row.model === "ridge")?.rmse_bits;
  const gain = ridge && champion.rmse_bits ? 1 - champion.rmse_bits / ridge : null;
  const close = Math.abs(champion.coverage_90 - protocol.coverage) <= 0.02;
  return [
    tile("RMSE", amount(champion.rmse_bits, scale), "on test rows"),
    tile("Skill", percent(champion.skill_vs_persistence, 1, true), "over repeating the last value", tone(champion.skill_vs_persistence > 0)),
    ...(gain === null ? [] : [tile("Against ridge", percent(gain, 1, true), "the strongest simple model", tone(gain > 0))]),
    tile("Coverage", percent(champion.coverage_90), `wanted ${percent(protocol.coverage, 0)}`, tone(close)),
    tile("Lowest coverage", percent(champion.coverage_min_250), "in any 250 rows in a row"),
  ];
}

function rowOf(row, champion, scale) {
  const name = element("th", { scope: "row" }, row.model.replaceAll("_", " "));
  name.append(element("span", { class: champion ? "badge" : "role" }, champion ? "champion" : row.role));
  const cells = COLUMNS.map(([key, , , text]) =>
    element("td", { class: key === "skill_vs_persistence" && row[key] < 0 ? "low" : "" }, row[key] === null ? NONE : text(row[key], scale)));
  return element("tr", champion ? { class: "champion", "aria-current": "true" } : {}, name, ...cells);
}

function quality({ train, test }) {
  const gaps = train.gaps + test.gaps, missing = train.rows_missing + test.rows_missing, cells = train.missing_cells + test.missing_cells;
  const found = [gaps && `${plural(gaps, "gap")} (${plural(missing, "row")} missing)`, cells && plural(cells, "empty cell")].filter(Boolean);
  return found.join(", ") || "no gaps, no empty cells";
}

const tone = good => (good ? "good" : "bad");
const clock = text => text.slice(0, 16).replace("T", " ");
