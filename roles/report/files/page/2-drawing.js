/* Copyright (c) 2026, numapin.inference contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 */

// One host as a picture: packages, nodes, caches, cores, devices; the plan as colours and letters, what is real on top.

const CELL = 18;
const GAP = 3;
const COLUMNS = 16;
const NODE_WIDTH = COLUMNS * (CELL + GAP) + 30;
const PAD = 10;

function drawHost(host) {
  const state = cpuStates(host);
  const groups = packageGroups(host);
  const svg = drawn("svg", { class: "host", role: "img", "aria-label": inWords(host) });
  const places = new Map();
  let top = PAD;
  let widest = 0;
  for (const row of rowsOf(groups)) {
    const heights = row.map((group) => Math.max(...group.nodes.map((node) => nodeHeight(host, node))));
    const height = Math.max(...heights) + 34;
    let left = PAD;
    row.forEach((group) => {
      const width = group.nodes.length * (NODE_WIDTH + PAD) + PAD;
      svg.append(
        drawn("rect", { class: "package", x: left, y: top, width, height, rx: 6 }),
        drawn("text", { class: "strong", x: left + PAD, y: top + 16 }, group.label));
      group.nodes.forEach((node, index) => {
        drawNode(svg, host, node, left + PAD + index * (NODE_WIDTH + PAD), top + 24, height - 34, state, places);
      });
      left += width + PAD;
    });
    widest = Math.max(widest, left);
    top += height + PAD;
  }
  const depth = drawLinks(svg, host, places, top);
  top += depth;
  svg.setAttribute("viewBox", `0 0 ${widest} ${top}`);
  svg.setAttribute("width", widest);
  svg.setAttribute("height", top);
  return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `Drawing of ${host.name}` }, svg);
}

// Up to four nodes side by side; a package stays whole.
function rowsOf(groups) {
  const rows = [];
  let used = 0;
  for (const group of groups) {
    if (rows.length === 0 || used + group.nodes.length > 4) {
      rows.push([]);
      used = 0;
    }
    rows[rows.length - 1].push(group);
    used += group.nodes.length;
  }
  return rows;
}

function packageGroups(host) {
  const groups = [];
  const placed = new Set();
  for (const one of host.packages) {
    const nodes = host.nodes.filter((node) => one.nodes.includes(node.id) && !placed.has(node.id));
    nodes.forEach((node) => placed.add(node.id));
    if (nodes.length) groups.push({ label: `Package ${or(one.id, "?")}`, nodes });
  }
  const rest = host.nodes.filter((node) => !placed.has(node.id));
  // A firmware may put a dozen memory-only nodes beside the packages.
  for (let index = 0; index < rest.length; index += 4) groups.push({ label: "No package", nodes: rest.slice(index, index + 4) });
  const nowhere = { id: null, caches: [], pages: [], hugepages: [] };
  if (devicesOf(host, null).length) groups.push({ label: "Place unknown", nodes: [nowhere] });
  return groups;
}

// What is on every CPU: whom the plan gave it to, whose threads may run there, who strays there, what interrupts it.
function cpuStates(host) {
  const cpus = new Map();
  const of = (cpu) => {
    if (!cpus.has(cpu)) cpus.set(cpu, { role: "free", instance: null, threads: new Map(), outside: new Map(), last: [], strays: [], interrupts: [] });
    return cpus.get(cpu);
  };
  for (const { role, instance, cpus: list } of host.cpus) {
    for (const cpu of cpusOf(list)) Object.assign(of(cpu), { role, instance });
  }
  host.instances.forEach((instance) => {
    const planned = new Set(cpusOf(instance.cpus));
    for (const { cpus: list, threads } of instance.cpus_allowed || []) {
      for (const cpu of cpusOf(list)) {
        const where = planned.has(cpu) ? of(cpu).threads : of(cpu).outside;
        where.set(instance.name, (where.get(instance.name) || 0) + threads);
      }
    }
    for (const { cpu, threads } of instance.last_cpus || []) of(cpu).last.push(`${threads} of ${instance.name}`);
    for (const thread of instance.stray_threads || []) {
      if (thread.last_cpu !== null) of(thread.last_cpu).strays.push(`${thread.comm} (thread ${thread.tid}) of ${instance.name}`);
    }
  });
  for (const device of host.interrupts || []) {
    for (const [list, vectors] of device.landing) {
      for (const cpu of cpusOf(list)) of(cpu).interrupts.push(`${device.device} (${vectors})`);
    }
  }
  return cpus;
}

function roleInWords(host, cpu) {
  const instance = cpu.instance === null ? null : host.instances[cpu.instance];
  return {
    instance: instance && `planned for ${instance.name}`,
    api_server: instance && `planned for ${instance.name}, its API server`,
    housekeeping: "housekeeping: system and interrupts",
    nginx: "nginx",
    offline: "offline",
    isolated: "not for services (isolated, or outside the cpuset)",
    free: "given to nobody",
  }[cpu.role];
}

function drawCpu(host, number, x, y, states) {
  const cpu = states.get(number) || { role: "free", instance: null, threads: new Map(), outside: new Map(), last: [], strays: [], interrupts: [] };
  const colour = cpu.instance === null ? cpu.role : `i${cpu.instance % 8}`;
  const letter = cpu.instance === null ? { housekeeping: "h", nginx: "n", offline: "×", isolated: "–" }[cpu.role] : host.instances[cpu.instance].label;
  const words = [`CPU ${number}: ${roleInWords(host, cpu)}`];
  const group = drawn("g", { "data-cpu": number, "data-role": cpu.role });
  group.append(drawn("rect", { class: `cpu ${colour} ${cpu.role}`, x, y, width: CELL, height: CELL, rx: 2 }));
  if (letter) group.append(drawn("text", { class: "on-cpu", x: x + CELL / 2, y: y + 11 }, letter));
  if (cpu.threads.size) {
    group.append(drawn("rect", { class: "threads", x: x + 2, y: y + CELL - 5.5, width: CELL - 4, height: 1.5 }));
    words.push(...[...cpu.threads].map(([name, threads]) => `${count(threads, "thread")} of ${name} may run here, as planned`));
  }
  if (cpu.outside.size) {
    group.append(drawn("rect", { class: "misplaced", x, y: y + CELL - 3.5, width: CELL, height: 3.5 }));
    words.push(...[...cpu.outside].map(([name, threads]) => `${count(threads, "thread")} of ${name} may run here, NOT as planned`));
  }
  if (cpu.last.length) words.push(`threads that ran here last: ${cpu.last.join(", ")}`);
  if (cpu.interrupts.length) {
    group.append(drawn("path", { class: "interrupt", d: `M${x} ${y}h6l-6 6z` }));
    words.push(`interrupts: ${cpu.interrupts.join(", ")}`);
  }
  if (cpu.strays.length) {
    group.setAttribute("data-stray", cpu.strays.length);
    group.append(
      drawn("rect", { class: "stray", x: x - 1, y: y - 1, width: CELL + 2, height: CELL + 2, rx: 3 }),
      drawn("circle", { class: "stray", cx: x + CELL - 1, cy: y + 1, r: 6 }),
      drawn("text", { class: "stray", x: x + CELL - 1, y: y + 4 }, "!"));
    words.push(`MISPLACED, ran here last: ${cpu.strays.join(", ")}`);
  }
  group.append(drawn("title", {}, words.join("\n")));
  return group;
}

function cacheCores(cache) {
  return cache.cores.split(" ").map(cpusOf);
}

function cacheHeight(cache) {
  const cores = cacheCores(cache);
  const threads = Math.max(...cores.map((core) => core.length));
  return Math.ceil(cores.length / COLUMNS) * (threads * CELL + 6) + 22;
}

function devicesOf(host, node) {
  const at = (device) => device.node === node;
  return [...host.gpus.filter(at), ...host.nics.filter(at), ...host.nvme.filter(at)];
}

function nodeHeight(host, node) {
  const gpus = host.gpus.filter((gpu) => gpu.node === node.id).length;
  const others = devicesOf(host, node.id).length - gpus;
  const caches = node.caches.reduce((sum, cache) => sum + cacheHeight(cache) + 4, 0);
  const memory = node.id === null ? 0 : 34 + 13 * hugepagesInWords(node).length;
  return 34 + caches + memory + Math.ceil(gpus / 4) * 46 + Math.ceil(others / 2) * 20 + 8;
}

function hugepagesInWords(node) {
  return (node.hugepages || []).filter((pool) => pool.total > 0).map((pool) =>
    `${count(pool.total, "hugepage")} of ${gib(pool.size_kib / 1024)}, ${pool.free} free`);
}

function drawNode(svg, host, node, left, top, height, states, places) {
  const inner = NODE_WIDTH - 2 * PAD;
  svg.append(drawn("rect", { class: "node", x: left, y: top, width: NODE_WIDTH, height, rx: 5 }));
  let y = top + 18;
  const title = node.id === null ? "Devices of which nobody tells a node" : `Node ${node.id}`;
  svg.append(drawn("text", { class: "strong", x: left + PAD, y }, title));
  if (node.id !== null) {
    const cpus = cpusOf(node.cpus).length;
    const about = `${cpus ? `${cpus} CPUs ${node.cpus}` : "no CPU"}, ${gib(node.memory_total_mib)}`;
    svg.append(drawn("text", { x: left + PAD + 56, y }, about.length > 52 ? `${about.slice(0, 51)}…` : about));
  }
  y += 10;
  for (const cache of node.caches) {
    y = drawCache(svg, host, cache, left + PAD - 3, y, inner + 6, states) + 4;
  }
  if (node.id !== null) y = drawMemory(svg, host, node, left + PAD, y + 4, inner);
  // GPUs come last: their links go on from there.
  y = drawOthers(svg, host, node, left + PAD, y + 6, inner);
  drawGpus(svg, host, node, left + PAD, y, inner, places);
}

function drawCache(svg, host, cache, left, top, width, states) {
  const cores = cacheCores(cache);
  const threads = Math.max(...cores.map((core) => core.length));
  const height = cacheHeight(cache);
  const label = cache.level === null ? "cores" : `L${cache.level} ${cache.size_kib === null ? "" : gib(cache.size_kib / 1024)}`;
  svg.append(
    drawn("rect", { class: "cache", x: left, y: top, width, height, rx: 4 }),
    drawn("text", { class: "small", x: left + 6, y: top + 12 }, `${label}, ${count(cores.length, "core")}`));
  cores.forEach((core, index) => {
    const x = left + 6 + (index % COLUMNS) * (CELL + GAP);
    const y = top + 17 + Math.floor(index / COLUMNS) * (threads * CELL + 6);
    core.forEach((cpu, thread) => svg.append(drawCpu(host, cpu, x, y + thread * CELL, states)));
  });
  return top + height;
}

function drawMemory(svg, host, node, left, top, width) {
  svg.append(drawn("rect", { class: "memory", x: left, y: top, width, height: 10 }));
  let x = left;
  for (const { instance, mib, planned } of node.pages) {
    const length = node.memory_total_mib ? Math.min((mib / node.memory_total_mib) * width, left + width - x) : 0;
    const name = host.instances[instance].name;
    const bar = drawn("rect", { class: planned ? `i${instance % 8}` : "misplaced", x, y: top, width: Math.max(length, planned ? 0 : 3), height: 10, "data-pages-of": name });
    bar.append(drawn("title", {}, `${gib(mib)} of ${name} on node ${node.id}${planned ? "" : ", NOT as planned"}`));
    svg.append(bar);
    x += length;
  }
  const lines = [`memory: ${gib(node.memory_free_mib)} of ${gib(node.memory_total_mib)} free`, ...hugepagesInWords(node)];
  lines.forEach((line, index) => svg.append(drawn("text", { class: "small", x: left, y: top + 21 + 13 * index }, line)));
  return top + 24 + 13 * (lines.length - 1);
}

function drawGpus(svg, host, node, left, top, width, places) {
  const gpus = host.gpus.filter((gpu) => gpu.node === node.id);
  const wide = (width - 3 * 6) / 4;
  gpus.forEach((gpu, index) => {
    const x = left + (index % 4) * (wide + 6);
    const y = top + Math.floor(index / 4) * 46;
    const names = gpu.instances.map((number) => host.instances[number].name);
    const letters = gpu.instances.map((number) => host.instances[number].label).join(" ");
    const wrong = gpu.held_by.filter((number) => !gpu.instances.includes(number)).map((number) => host.instances[number].name);
    const group = drawn("g", { "data-gpu": or(gpu.uuid, gpu.pci_address), "data-held-wrongly": wrong.length || null });
    group.append(
      drawn("rect", { class: gpu.instances.length ? `device i${gpu.instances[0] % 8}` : "device", x, y, width: wide, height: 40, rx: 4 }),
      drawn("text", { class: "strong", x: x + 5, y: y + 15 }, `GPU${gpu.number}${letters ? ` ${letters}` : ""}`),
      drawn("text", { class: "small", x: x + 5, y: y + 27 }, gib(gpu.memory_total_mib)),
      drawn("text", { class: "small", x: x + 5, y: y + 37 }, gpu.mig.length ? `${gpu.mig.length} MIG` : gpu.pci_address.slice(-7)),
      drawn("title", {}, [`${or(gpu.name, `${gpu.vendor} GPU`)} ${gpu.pci_address} ${or(gpu.uuid, "")}`,
        names.length ? `given to ${names.join(", ")}` : "given to nobody", ...wrong.map((name) => `held by ${name}, NOT as planned`), `its node is said by: ${gpu.node_source}`].join("\n")));
    if (wrong.length) {
      group.append(drawn("rect", { class: "stray", x: x - 1, y: y - 1, width: wide + 2, height: 42, rx: 4 }),
        drawn("circle", { class: "stray", cx: x + wide - 2, cy: y + 2, r: 6 }), drawn("text", { class: "stray", x: x + wide - 2, y: y + 5 }, "!"));
    }
    svg.append(group);
    places.set(gpu.pci_address, [x + wide / 2, y + 40]);
  });
}

function drawOthers(svg, host, node, left, top, width) {
  const others = [
    ...host.nics.filter((nic) => nic.node === node.id).map((nic) => [nic, `${nic.name}${nic.speed_mbps ? ` ${nic.speed_mbps / 1000} Gb/s` : ""}`]),
    ...host.nvme.filter((disk) => disk.node === node.id).map((disk) => [disk, disk.name]),
  ];
  const wide = (width - 6) / 2;
  others.forEach(([device, text], index) => {
    const x = left + (index % 2) * (wide + 6);
    const y = top + Math.floor(index / 2) * 20;
    svg.append(
      drawn("rect", { class: "device", x, y, width: wide, height: 16, rx: 3 }),
      drawn("text", { class: "small", x: x + 5, y: y + 11.5 }, text.length > 32 ? `${text.slice(0, 31)}…` : text,
        drawn("title", {}, `${text} ${or(device.pci_address, "")} ${or(device.driver, or(device.model, ""))}`)));
  });
  return top + Math.ceil(others.length / 2) * 20;
}

// NVLinks as curves below the boxes; what only PCIe connects stands in the table of links.
function drawLinks(svg, host, places, bottom) {
  let deepest = 0;
  const seen = new Set();
  for (const gpu of host.gpus) {
    for (const link of gpu.links) {
      const key = [gpu.pci_address, link.pci_address].sort().join();
      const [from, to] = [places.get(gpu.pci_address), places.get(link.pci_address)];
      if (!link.nvlinks || seen.has(key) || !from || !to) continue;
      seen.add(key);
      const depth = 14 + Math.min(60, Math.abs(from[0] - to[0]) / 12);
      deepest = Math.max(deepest, depth);
      svg.append(drawn("path", { class: "wire", d: `M${from[0]} ${from[1]}C${from[0]} ${bottom + depth} ${to[0]} ${bottom + depth} ${to[0]} ${to[1]}` },
        drawn("title", {}, `${gpu.pci_address} to ${link.pci_address}: ${count(link.nvlinks, "NVLink")}`)));
    }
  }
  return deepest;
}

function inWords(host) {
  const cpus = host.nodes.reduce((sum, node) => sum + cpusOf(node.cpus).length, 0);
  const strays = host.strays ? `; ${count(host.strays, "misplaced thread")}` : "";
  return `${host.name}: ${count(host.packages.length, "package")}, ${count(host.nodes.length, "node")}, ${count(cpus, "CPU")}, ` +
    `${count(host.gpus.length, "GPU")}, ${count(host.instances.length, "instance")}${strays}. The tables below say the same in words.`;
}
