/* Copyright (c) 2026, numapin.inference contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 */

// What is inside an opened host: what is wrong, the drawing, and the same in tables.

function details(host) {
  const inside = element("div", { class: "inside" });
  inside.append(...troubles(host));
  if (host.nodes.length) {
    inside.append(element("h3", {}, "Placement"), drawHost(host), legend(host));
  } else {
    inside.append(element("p", { class: "soft" }, "Nothing is known of this host's topology."));
  }
  const add = (...nodes) => inside.append(...nodes.filter((node) => node !== null));
  add(instanceTable(host), strayTable(host), processTable(host), reasons(host));
  add(element("div", { class: "columns" }, ...[distanceTable(host), cpuTable(host), nodeTable(host), linkTable(host),
    interruptTable(host), kernelTable(host)].filter((node) => node !== null)));
  add(...host.benchmarks.map(plot));
  return inside;
}

function troubles(host) {
  const found = [];
  if (host.error) found.push(alertBox("This host could not be looked at", [host.error]));
  if (host.problems.length) found.push(alertBox("Not as planned", host.problems));
  if (host.not_deployed.length) found.push(alertBox("Planned, not deployed yet", host.not_deployed, "warn"));
  if (host.warnings.length) found.push(alertBox("Warnings", host.warnings.map((one) => `${one.source}: ${one.text}`), "warn"));
  if (host.notes.length) found.push(alertBox("Worth knowing", host.notes, "warn"));
  return found;
}

function alertBox(title, texts, kind) {
  return element("div", { class: `alert ${kind || ""}` }, element("strong", {}, title), listed(texts));
}

function legend(host) {
  const sample = (role, instance, label) => {
    const svg = drawn("svg", { class: "host", width: CELL + 2, height: CELL + 2, "aria-hidden": "true" });
    const colour = instance === null ? role : `i${instance % 8}`;
    svg.append(drawn("rect", { class: `cpu ${colour} ${role}`, x: 1, y: 1, width: CELL, height: CELL, rx: 2 }));
    if (label) svg.append(drawn("text", { class: "on-cpu", x: 10, y: 13 }, label));
    return svg;
  };
  const roles = new Set(host.cpus.map((one) => one.role));
  const texts = [
    ...host.instances.map((instance, number) => [sample("instance", number, instance.label), instance.name]),
    ...[["api_server", "", "thick frame: an instance's API server"], ["housekeeping", "h", "housekeeping"], ["nginx", "n", "nginx"],
      ["offline", "×", "offline"], ["isolated", "–", "not for services"], ["free", "", "given to nobody"]]
      .filter(([role]) => roles.has(role)).map(([role, letter, text]) => [sample(role, null, letter), text]),
  ];
  const marks = "Line at a CPU's foot: threads may run there; red: not as planned. Red ring and !: a misplaced thread ran there. Corner: interrupts land there. Bar: memory by instance; red: on a node that is not its own.";
  return element("div", {},
    element("ul", { class: "tiles", "aria-label": "Legend" }, ...texts.map(([svg, text]) => element("li", {}, svg, text))),
    element("p", { class: "soft" }, marks));
}

function instanceTable(host) {
  const headings = ["Instance", "Model", "State", "Answers", "Planned CPUs", "Threads may run on", "Nodes", "Memory", "Pages by node", "Local", "GPUs", "Port"];
  const rows = host.instances.map((instance) => [
    `${instance.label} ${instance.name}`,
    instance.model,
    verdictOf(instance),
    or(instance.answers, "not asked"),
    instance.cpus,
    instance.cpus_allowed === null ? "not looked at" : instance.cpus_allowed.map((set) => `${set.cpus} (${count(set.threads, "thread")})`).join("; "),
    instance.nodes.join(", "),
    `${instance.memory_policy} ${(instance.memory_nodes || []).join(", ")}${instance.memory_mib ? `, needs ${gib(instance.memory_mib)}` : ""}`,
    instance.pages_mib_by_node === null ? null : instance.pages_mib_by_node.map((one) => `${one.node}: ${gib(one.total)}`).join("; "),
    instance.locality_percent === null ? null : `${instance.locality_percent} % (own ${or(instance.own_locality_percent, "–")} %)`,
    [instance.gpu_numbers.map((number) => `GPU${number}`).join(", ") || (instance.gpus || []).join(", "), ...instance.gpu_problems].join("; "),
    instance.port,
  ]);
  return table("Instances: planned, and where they really are", headings, rows, (index) => host.instances[index].ok === false);
}

function verdictOf(instance) {
  if (instance.not_deployed) return "not deployed yet";
  if (instance.ok === null) return "not verified";
  return `${instance.ok ? "as planned" : "NOT as planned"} (${instance.state})`;
}

function strayTable(host) {
  const rows = host.instances.flatMap((instance) => (instance.stray_threads || []).map((thread) =>
    [`${thread.tid}`, thread.comm, instance.name, `${thread.pid}`, thread.cpus_allowed, thread.last_cpu, thread.planned_cpus]));
  return table("Misplaced threads", ["Thread", "Name", "Instance", "Process", "May run on", "Ran last on CPU", "Planned CPUs"], rows, () => true);
}

function processTable(host) {
  const rows = host.instances.flatMap((instance) => (instance.processes || []).map((process) => [
    `${process.pid}`, process.comm, instance.name, process.thread_count, process.last_cpu,
    process.pages_mib_by_node === null ? `unknown: ${process.pages_unknown_because}` : process.pages_mib_by_node.map((one) => `${one.node}: ${gib(one.total)}`).join("; ")]));
  return table("Processes", ["Process", "Name", "Instance", "Threads", "Ran last on CPU", "Pages by node"], rows);
}

function reasons(host) {
  const told = host.instances.filter((instance) => (instance.reasons || []).length);
  if (!told.length) return null;
  return element("details", {}, element("summary", {}, "Why every instance is where it is"),
    ...told.flatMap((instance) => [element("h4", {}, instance.name), listed(instance.reasons, { class: "reasons" })]));
}

function distanceTable(host) {
  const known = host.nodes.filter((node) => (node.distances || []).length);
  const others = [...new Set(known.flatMap((node) => node.distances.map((one) => one.node)))].sort((one, other) => one - other);
  const rows = known.map((node) => {
    const to = new Map(node.distances.map((one) => [one.node, one.distance]));
    return [`node ${node.id}`, ...others.map((other) => (to.has(other) ? to.get(other) : null))];
  });
  return table("Node distances", ["From", ...others.map((other) => `to ${other}`)], rows);
}

function cpuTable(host) {
  const rows = host.cpus.map(({ role, instance, cpus }) => [
    role.replace("_", " "), instance === null ? "" : host.instances[instance].name, cpus, cpusOf(cpus).length]);
  return table("CPUs by role", ["Role", "Instance", "CPUs", "How many"], rows);
}

function nodeTable(host) {
  const stat = (node, key) => (node.numastat ? node.numastat[key] : null);
  const rows = host.nodes.map((node) => [`node ${node.id}`, (node.kind || "").replaceAll("_", " "), node.cpus, gib(node.memory_total_mib),
    gib(node.memory_free_mib), hugepagesInWords(node).join("; ") || "none", stat(node, "miss"), stat(node, "foreign")]);
  return table("Nodes", ["Node", "Kind", "CPUs", "Memory", "Free", "Hugepages", "numa_miss", "numa_foreign"], rows);
}

function linkTable(host) {
  if (host.gpus.length < 2 || !host.gpus.some((gpu) => gpu.links.length)) return null;
  const rows = host.gpus.map((gpu) => {
    const kinds = new Map(gpu.links.map((link) => [link.pci_address, link.kind]));
    return [`GPU${gpu.number}`, ...host.gpus.map((other) => (other === gpu ? "X" : or(kinds.get(other.pci_address), "–")))];
  });
  return table("GPU links", ["", ...host.gpus.map((gpu) => `GPU${gpu.number}`)].map((text) => text || "From"), rows);
}

function interruptTable(host) {
  const rows = (host.interrupts || []).map((device) => [device.device, device.kinds.join(", "), device.node, device.vectors,
    cpulistOf(new Set(device.landing.flatMap(([list]) => cpusOf(list))))]);
  return table("Where interrupts land", ["Device", "Kind", "Node", "Vectors", "CPUs"], rows);
}

function kernelTable(host) {
  return table("Kernel", ["Setting", "Value"], host.kernel.map(([name, value]) => [name, `${value}`]));
}

// {title, unit, better, groups: [{name, values}], verdict} as dots with their median.
function plot(benchmark) {
  const groups = benchmark.groups || [];
  const values = groups.flatMap((group) => group.values);
  const [low, high] = [Math.min(0, ...values), Math.max(...values, 1e-9)];
  const [label, width, row] = [170, 620, 26];
  const at = (value) => label + ((value - low) / (high - low)) * (width - label - 60);
  const median = (list) => {
    const sorted = [...list].sort((one, other) => one - other);
    const middle = Math.floor(sorted.length / 2);
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  };
  const height = groups.length * row + 12;
  const medians = groups.map((group) => `${group.name}: median ${median(group.values).toLocaleString("en")} ${benchmark.unit} of ${group.values.length}`);
  const svg = drawn("svg", { class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${benchmark.title}. ${medians.join("; ")}` });
  groups.forEach((group, index) => {
    const y = index * row + row / 2 + 4;
    const name = group.name.length > 26 ? `${group.name.slice(0, 25)}…` : group.name;
    svg.append(drawn("text", { x: 0, y: y + 4 }, name), drawn("line", { class: "axis", x1: label, x2: width - 60, y1: y, y2: y }));
    group.values.forEach((value) => svg.append(drawn("circle", { class: "dot", cx: at(value), cy: y, r: 4 }, drawn("title", {}, `${value} ${benchmark.unit}`))));
    const middle = median(group.values);
    svg.append(drawn("line", { class: "median", x1: at(middle), x2: at(middle), y1: y - 9, y2: y + 9 }),
      drawn("text", { class: "small", x: width - 56, y: y + 4 }, middle.toLocaleString("en", { maximumSignificantDigits: 4 })));
  });
  const better = benchmark.better ? `, ${benchmark.better} is better` : "";
  return element("div", {}, element("h3", {}, `${benchmark.title} (${benchmark.unit}${better})`),
    element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": benchmark.title }, svg),
    benchmark.verdict ? element("p", {}, benchmark.verdict) : null);
}
