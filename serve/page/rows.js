// Rows that a person pastes or opens, brought into the columns form that POST /v1/forecast takes.

const EMPTY = new Set(["", "nan", "null", "na", "none", "n/a"]);

/**
 * Read delimited text with a line of names.
 *
 * @param {string} text Comma, semicolon or tab between cells; numbers with a decimal point.
 * @param {string[]} wanted Columns that the model reads; others are left out.
 * @returns {{time: string[], columns: Object<string, (number|null)[]>}} Rows in their order; null where a cell is empty.
 * @throws {Error} Whose message says in which line and column something is wrong, and what to do.
 */
export function readRows(text, wanted) {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/).map((line, i) => [i + 1, line]).filter(([, line]) => line.trim());
  if (lines.length < 2) throw new Error("There are no rows: paste a line of column names and the rows below it.");
  const delimiter = [",", ";", "\t"].sort((a, b) => lines[0][1].split(b).length - lines[0][1].split(a).length)[0];
  const cells = line => line.split(delimiter).map(cell => cell.trim().replace(/^"(.*)"$/, "$1"));
  const names = cells(lines[0][1]);
  const missing = ["time", ...wanted].filter(name => !names.includes(name));
  if (missing.length) {
    throw new Error(`The first line lacks ${missing.join(", ")}: it must name time and every column that the model reads.`);
  }
  const at = Object.fromEntries(names.map((name, i) => [name, i]));
  const rows = { time: [], columns: Object.fromEntries(wanted.map(name => [name, []])) };
  for (const [line, content] of lines.slice(1)) {
    const found = cells(content);
    if (found.length !== names.length) {
      throw new Error(`Line ${line} has ${found.length} cells where the first line names ${names.length} columns.`);
    }
    rows.time.push(found[at.time].replace(/^(\d{4}-\d\d-\d\d) /, "$1T"));
    for (const name of wanted) rows.columns[name].push(numberIn(found[at[name]], line, name));
  }
  return rows;
}

/** Rows as CSV, the way `readRows` reads them. */
export function writeRows({ time, columns }) {
  const names = Object.keys(columns);
  const lines = time.map((at, i) => [at, ...names.map(name => columns[name][i] ?? "")].join(","));
  return [["time", ...names].join(","), ...lines].join("\n");
}

/** Rows from `start` up to `end`, the latter left out. */
export const slice = ({ time, columns }, start, end) => ({
  time: time.slice(start, end),
  columns: Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values.slice(start, end)])),
});

function numberIn(cell, line, name) {
  if (EMPTY.has(cell.toLowerCase())) return null;
  const value = Number(cell);
  if (!Number.isFinite(value)) throw new Error(`Line ${line}, ${name}: "${cell}" is not a number; leave the cell empty if it is missing.`);
  return value;
}
