// Sorting, readable charts and a quick filter for the pages of `runspend serve`. Each page works without it, and it asks the server for nothing.

// --- tables -----------------------------------------------------------------------------------------------------------

const LONG = 15; // rows: a longer table gets a filter
const MINUS = "\u2212";

/** Whether a row belongs below the others: a sum, the rest, or cost without a run. */
const isFixed = (row) => row.matches(".sum, .apart") || [...row.cells].some((cell) => cell.colSpan > 1);

/** What a cell sorts by: its number where the column has numbers (null without one), else its text. */
function sortKey(row, column, isNumeric) {
  const cell = row.cells[column];
  const text = (cell?.dataset.v ?? cell?.textContent ?? "").trim();
  if (!isNumeric) return text === "" || text === "–" ? null : text;
  const number = text.replaceAll(MINUS, "-").replaceAll(",", "").match(/-?\d+(\.\d+)?/);
  return number && Number(number[0]);
}

/** Put the rows in the order of a column. What has no value comes last either way; equal rows keep their order. */
function sortRows(table, column, isDescending) {
  const heads = [...table.tHead.rows[0].cells];
  const isNumeric = heads[column].classList.contains("n");
  const rows = [...table.tBodies[0].rows];
  const keyed = rows.filter((row) => !isFixed(row)).map((row) => [sortKey(row, column, isNumeric), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return (isDescending ? -1 : 1) * (isNumeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row), ...rows.filter(isFixed));
  for (const [at, head] of heads.entries()) {
    if (at === column) head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

/** Columns that can be sorted here: those with a name, which the server does not sort. None where rows stand under headings. */
function sortableColumns(table) {
  const body = table.tBodies[0];
  if (!table.tHead || !body || body.querySelector(".sub") || [...body.rows].filter((row) => !isFixed(row)).length < 2) return [];
  return [...table.tHead.rows[0].cells].map((head, column) => ({ head, column })).filter(({ head }) => head.textContent.trim() && !head.querySelector("a, .hid"));
}

/** Make the names of columns buttons. Phones do not show them, so they get a list of the columns. */
function makeSortable(table, tools) {
  const columns = sortableColumns(table);
  if (!columns.length) return;
  const order = document.createElement("select");
  order.append(new Option("as listed", ""));
  order.options[0].disabled = true; // it cannot be chosen again: the page's own order may not be that of any column
  for (const { head, column } of columns) {
    const isNumeric = head.classList.contains("n");
    order.append(new Option(head.textContent.trim(), column));
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sortRows(table, column, now === null ? isNumeric : now === "ascending");
      order.value = column;
    });
  }
  order.addEventListener("change", () => {
    const column = Number(order.value);
    sortRows(table, column, table.tHead.rows[0].cells[column].classList.contains("n"));
  });
  tools.append(labelled("sort rows by", order, "order"));
}

function labelled(words, field, css) {
  const label = document.createElement("label");
  label.className = css;
  label.append(`${words} `, field);
  return label;
}

/** Add a field that leaves the rows with a text. A heading stays with its rows; sums go, because they are not those of the rows left. */
function makeFilterable(table, tools) {
  const all = [...(table.tBodies[0]?.rows ?? [])];
  const count = all.filter((row) => !isFixed(row)).length;
  if (count < LONG) return;
  const field = document.createElement("input");
  field.type = "search";
  const result = document.createElement("span");
  result.setAttribute("role", "status");
  field.addEventListener("input", () => {
    const text = field.value.trim().toLowerCase();
    const has = (row) => (row?.textContent ?? "").toLowerCase().includes(text);
    let shown = 0;
    let heading = null;
    for (const row of all) {
      const isHeading = row.classList.contains("sub");
      if (isHeading) heading = row;
      row.hidden = text !== "" && (isFixed(row) || !(has(row) || (heading && has(heading))));
      if (row.hidden || isFixed(row)) continue;
      shown += 1;
      if (heading) heading.hidden = false;
    }
    result.textContent = text ? `${shown} of ${count} rows` : "";
  });
  tools.append(labelled("find in this table", field, "quick"), result);
}

// --- charts: the text of a mark, under the pointer, a finger or the arrow keys -------------------------------------------------

const bubble = document.createElement("div");
bubble.className = "bubble";
bubble.setAttribute("role", "status");

function hideBubble() {
  bubble.classList.remove("shown");
  for (const mark of document.querySelectorAll(".marked")) mark.classList.remove("marked");
}

function showBubble(mark) {
  hideBubble();
  mark.classList.add("marked");
  bubble.textContent = mark.dataset.tip;
  bubble.classList.add("shown");
  const box = mark.getBoundingClientRect();
  const most = document.documentElement.clientWidth - bubble.offsetWidth - 4;
  const left = Math.max(Math.min(box.left + (box.width - bubble.offsetWidth) / 2, most), 4);
  const above = box.top - bubble.offsetHeight - 6;
  bubble.style.left = `${left + window.scrollX}px`;
  bubble.style.top = `${(above < 4 ? box.bottom + 6 : above) + window.scrollY}px`;
}

/** Marks by where they stand from left to right; those of one column from the bottom up. */
function columnsOf(marks) {
  const columns = new Map();
  for (const mark of marks) {
    const x = Number(mark.getAttribute("x") ?? mark.getAttribute("cx"));
    columns.set(x, [...(columns.get(x) ?? []), mark]);
  }
  const bottom = (mark) => -Number(mark.getAttribute("y") ?? mark.getAttribute("cy"));
  return [...columns].sort(([a], [b]) => a - b).map(([, column]) => column.sort((a, b) => bottom(a) - bottom(b)));
}

function makeReadable(chart) {
  const marks = [...chart.querySelectorAll("rect > title, circle > title")].map((title) => {
    const mark = title.parentElement;
    mark.dataset.tip = title.textContent;
    title.remove(); // the browser's own tooltip appears late, and never for the keyboard
    return mark;
  });
  if (!marks.length) return;
  const columns = columnsOf(marks);
  const nearest = (list, at) => Math.min(Math.max(at, 0), list.length - 1);
  let [column, row] = [-1, 0];
  const point = (newColumn, newRow) => {
    column = nearest(columns, newColumn);
    row = nearest(columns[column], newRow);
    showBubble(columns[column][row]);
  };
  for (const [x, found] of columns.entries()) {
    for (const [y, mark] of found.entries()) {
      mark.addEventListener("pointerenter", () => point(x, y));
      mark.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideBubble()); // a finger also "leaves" when it is lifted
    }
  }
  for (const link of chart.querySelectorAll("a")) {
    link.addEventListener("focus", () => showBubble(link.querySelector("[data-tip]") ?? link));
    link.addEventListener("blur", hideBubble);
  }
  if (chart.querySelector("a")) return; // its links take the focus
  chart.tabIndex = 0;
  chart.setAttribute("aria-label", `${chart.getAttribute("aria-label")}. Arrow keys read it`);
  chart.addEventListener("blur", hideBubble);
  chart.addEventListener("keydown", (event) => {
    const move = {
      ArrowRight: () => point(column + 1, row),
      ArrowLeft: () => point(column - 1, row),
      ArrowUp: () => point(column, row + 1),
      ArrowDown: () => point(column, row - 1),
      Home: () => point(0, row),
      End: () => point(columns.length - 1, row),
      Escape: hideBubble,
    }[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    move();
    event.preventDefault();
  });
}

// --- the page -----------------------------------------------------------------------------------------------------------

for (const table of document.querySelectorAll("table.stack")) {
  const tools = document.createElement("div");
  tools.className = "tools";
  makeFilterable(table, tools);
  makeSortable(table, tools);
  if (tools.children.length) table.before(tools);
}
for (const chart of document.querySelectorAll("svg.chart")) makeReadable(chart);
document.body.append(bubble);
document.addEventListener("pointerdown", (event) => event.target.closest?.("[data-tip]") ?? hideBubble());
document.addEventListener("keydown", (event) => event.key === "Escape" && hideBubble());
