/* Copyright (c) 2026, numapin.inference contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 */

// The page: numbers of the fleet, what needs attention, and a list of hosts that draws a host when it is opened.

const report = JSON.parse(document.getElementById("report-data").textContent);
const at = (id) => document.getElementById(id);
const SHOWN_AT_ONCE = 20;
const PRINTED_AT_ONCE = 50;
const LISTED_AT_ONCE = 200;
const rows = report.hosts.map(hostRow);
let shown = rows;

function hostRow(host) {
  const facts = host.nodes.length
    ? `${count(host.nodes.length, "node")}, ${count(host.gpus.length, "GPU")}, ${count(host.instances.length, "instance")}`
    : "";
  const opened = element("details", { "data-host": host.name },
    element("summary", {}, element("strong", {}, host.name), badge(host.state),
      host.strays ? element("span", { class: "badge bad" }, `! ${count(host.strays, "misplaced thread")}`) : null,
      host.warnings.length ? element("span", { class: "badge warn" }, count(host.warnings.length, "warning")) : null,
      element("span", { class: "soft" }, facts), element("span", { class: "soft" }, host.served.join(", "))));
  opened.addEventListener("toggle", () => drawWhenOpen(opened, host));
  return { host, opened, item: element("li", {}, opened) };
}

function drawWhenOpen(opened, host) {
  if (opened.open && opened.childElementCount === 1) opened.append(details(host));
}

function openRow(row) {
  row.opened.open = true;
  drawWhenOpen(row.opened, row.host);
}

function showTiles() {
  const { summary } = report;
  const tile = (number, text) => element("li", {}, element("strong", {}, typeof number === "number" ? number.toLocaleString("en") : number), text);
  at("tiles").append(
    tile(summary.hosts, summary.hosts === 1 ? "host" : "hosts"),
    ...Object.entries(summary.states).filter(([, number]) => number).map(([state, number]) => element("li", {}, element("strong", {}, `${number}`), badge(state))),
    tile(summary.instances, "instances planned"),
    tile(summary.instances_verified ? `${summary.instances_as_planned} of ${summary.instances_verified}` : "–", "instances as planned"),
    tile(summary.stray_threads, "misplaced threads"),
    tile(summary.nodes, "nodes"), tile(summary.gpus, "GPUs"), tile(summary.warnings, "warnings"));
}

function showAttention() {
  const bad = rows.filter(({ host }) => host.error || host.problems.length || host.warnings.length);
  at("attention").hidden = bad.length === 0;
  for (const row of bad.slice(0, SHOWN_AT_ONCE)) {
    const { host } = row;
    const texts = [host.error, ...host.problems, ...host.warnings.map((one) => `${one.source}: ${one.text}`)].filter(Boolean);
    const link = element("button", { type: "button" }, host.name);
    link.addEventListener("click", () => goTo(row));
    at("attention-list").append(element("div", { class: `alert ${host.error || host.problems.length ? "" : "warn"}` }, link, " ", badge(host.state),
      listed(texts.slice(0, 8)), texts.length > 8 ? element("p", { class: "soft" }, `and ${texts.length - 8} more, see the host`) : null));
  }
  if (bad.length > SHOWN_AT_ONCE) {
    at("attention-list").append(element("p", {}, `${count(bad.length - SHOWN_AT_ONCE, "more host")}: choose the state "with problems or warnings" below.`));
  }
}

function goTo(row) {
  if (!shown.includes(row)) {
    at("search").value = at("state").value = at("model").value = "";
    filter();
  }
  if (!row.item.isConnected) list(Infinity);
  openRow(row);
  row.opened.scrollIntoView();
  row.opened.querySelector("summary").focus({ preventScroll: true });
}

function fillSelects() {
  const option = (value, text) => element("option", { value }, text);
  const { summary } = report;
  at("state").append(option("", "all"), option("attention", "with problems or warnings"),
    ...Object.entries(summary.states).filter(([, number]) => number).map(([state, number]) => option(state, `${STATES[state][0]} (${number})`)));
  at("model").append(option("", "all"), ...summary.models.map((model) => option(model, model)));
}

function filter() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = at("state").value;
  const model = at("model").value;
  shown = rows.filter(({ host }) => words.every((word) => host.search.includes(word)) && (model === "" || host.served.includes(model)) &&
      (state === "" || host.state === state || (state === "attention" && Boolean(host.error || host.problems.length || host.warnings.length))));
  list(LISTED_AT_ONCE);
  at("shown").textContent = shown.length === rows.length ? `All ${count(rows.length, "host")}.` : `${shown.length} of ${count(rows.length, "host")}.`;
}

// Taking all out and some in is much faster than hiding the others: there is nothing to lay out in between.
function list(limit) {
  at("host-list").replaceChildren(...shown.slice(0, limit).map((row) => row.item));
  at("more").hidden = shown.length <= limit;
  at("more").textContent = `List the other ${count(shown.length - limit, "host")}`;
}

function openShown() {
  shown.slice(0, PRINTED_AT_ONCE).forEach(openRow);
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function start() {
  showTiles();
  showAttention();
  fillSelects();
  at("benchmarks").hidden = report.benchmarks.length === 0;
  at("benchmark-list").append(...report.benchmarks.map(plot));
  filter();
  for (const id of ["search", "state", "model"]) at(id).addEventListener("input", filter);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("more").addEventListener("click", () => {
    list(Infinity);
    shown[LISTED_AT_ONCE].opened.querySelector("summary").focus();
  });
  at("open-shown").addEventListener("click", openShown);
  at("close-all").addEventListener("click", () => rows.forEach((row) => { row.opened.open = false; }));
  at("theme").setAttribute("aria-pressed", `${isDark()}`);
  at("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    at("theme").setAttribute("aria-pressed", `${isDark()}`);
  });
  if (rows.length <= 4) rows.forEach(openRow);
  // What is shown is what is printed; a fleet would be a book, so a large one is printed as it is open.
  addEventListener("beforeprint", () => { if (shown.length <= PRINTED_AT_ONCE) openShown(); });
}

start();
