"use strict";
// The table of all classes: a search field, and columns that sort the rows. Without this script it is a plain table.
for (const section of document.querySelectorAll(".all-classes")) {
  const body = section.querySelector("tbody");
  const rows = [...body.rows];
  const headings = [...section.querySelectorAll("thead th")];
  const search = section.querySelector("input");
  const count = section.querySelector("output");

  const isNumeric = (heading) => heading.classList.contains("n");

  function filter() {
    const text = search.value.trim().toLocaleLowerCase();
    let shown = 0;
    for (const row of rows) {
      const names = [row.cells[0], row.cells[row.cells.length - 1]].map((cell) => cell.dataset.value);
      row.hidden = !names.some((name) => name.toLocaleLowerCase().includes(text));
      shown += !row.hidden;
    }
    count.textContent = text ? `${shown} of ${rows.length} classes` : `${rows.length} classes`;
  }

  function sort(column, descending) {
    const value = (row) => row.cells[column].dataset.value;
    const isNumber = isNumeric(headings[column]);
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last
      const order = isNumber ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return descending ? -order : order;
    });
    body.append(...rows);
    headings.forEach((heading, i) => {
      heading.ariaSort = i === column ? (descending ? "descending" : "ascending") : "none";
    });
  }

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const isSorted = heading.ariaSort === "ascending" || heading.ariaSort === "descending";
      sort(column, isSorted ? heading.ariaSort === "ascending" : isNumeric(heading)); // numbers: the highest first
    });
  });
  search.addEventListener("input", filter);
  section.querySelector(".search").hidden = false;
  filter();
}
