/* Copyright (c) 2026, numapin.inference contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 */

"use strict";
// Everything from the report gets onto the page as text, never as markup: names are what somebody typed.

function element(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function drawn(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// "0-3,8" -> [0, 1, 2, 3, 8]
function cpusOf(cpulist) {
  const cpus = [];
  for (const region of (cpulist || "").split(",")) {
    if (region === "") continue;
    const [first, last] = region.split("-").map(Number);
    for (let cpu = first; cpu <= (last === undefined ? first : last); cpu++) cpus.push(cpu);
  }
  return cpus;
}

function cpulistOf(cpus) {
  const sorted = [...cpus].sort((one, other) => one - other);
  const regions = [];
  for (const cpu of sorted) {
    const region = regions[regions.length - 1];
    if (region && region[1] === cpu - 1) region[1] = cpu;
    else regions.push([cpu, cpu]);
  }
  return regions.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

function count(number, what) {
  return `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
}

function gib(mib) {
  if (mib === null || mib === undefined) return "unknown";
  return mib < 1024 ? `${Math.round(mib)} MiB` : `${(mib / 1024).toFixed(mib < 10240 ? 1 : 0)} GiB`;
}

function or(value, otherwise) {
  return value === null || value === undefined || value === "" ? otherwise : value;
}

// Rows of texts, numbers and nodes as a table that scrolls by itself and can be reached with the keyboard.
function table(caption, headings, rows, marked) {
  if (rows.length === 0) return null;
  const body = rows.map((row, index) => {
    const cells = row.map((cell, column) => {
      const content = cell instanceof Node ? cell : `${or(cell, "–")}`;
      if (column === 0) return element("th", { scope: "row" }, content);
      return element("td", { class: typeof cell === "number" ? "number" : null }, content);
    });
    return element("tr", { class: marked && marked(index) ? "bad" : null }, ...cells);
  });
  return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...headings.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...body)));
}

function listed(texts, attributes) {
  return element("ul", attributes || {}, ...texts.map((text) => element("li", {}, text)));
}

const STATES = {
  as_planned: ["✓ as planned", "good"],
  drifted: ["✗ not as planned", "bad"],
  not_deployed: ["… not deployed", "warn"],
  not_verified: ["? not verified", "none"],
  failed: ["✗ failed", "bad"],
  unreachable: ["✗ unreachable", "bad"],
};

function badge(state) {
  const [text, kind] = STATES[state] || [state, "none"];
  return element("span", { class: `badge ${kind}` }, text);
}
