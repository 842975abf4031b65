"use strict";
// Sends recordings to v1/score one by one and draws what comes back. Scores nothing itself.

const POLICIES = {
  equal_error: "Where, among the voices of the development set, fakes let through and real voices called fake are equally frequent.",
  min_cost: "Where errors cost least, if fakes are rare and letting one through is ten times as bad.",
  max_fpr: "Where few real voices are called fake; more fakes pass.",
  min_tpr: "Where few fakes pass; more real voices are called fake.",
};
const NAMES = { equal_error: "equal errors", min_cost: "least cost", max_fpr: "few false positives", min_tpr: "few fakes missed" };
const LONGEST = 300; // seconds recorded

const at = (id) => document.getElementById(id);
let thresholds = {};
let held = []; // the files shown: another policy asks about them again
let busy = false;

const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const seconds = (x) => (x < 120 ? `${x.toFixed(1)} s` : `${Math.floor(x / 60)} min ${Math.round(x % 60)} s`);

function say(text, error = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
}

async function ask(path, options = {}) {
  const token = at("token").value.trim();
  const response = await fetch(path, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  const content = await response.json();
  if (response.status === 401) {
    at("ask-token").hidden = false;
    at("token").focus();
  }
  if (!response.ok) throw new Error(content.detail);
  return content;
}

async function start() {
  const chosen = at("policy").value;
  try {
    const model = await ask("v1/model");
    thresholds = model.thresholds;
    at("policy").replaceChildren(...Object.keys(thresholds).map((name) => {
      const option = new Option(`${NAMES[name] ?? name} (${signed(thresholds[name])})`, name);
      option.selected = name === (chosen || model.policy);
      return option;
    }));
    explain();
    say("");
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  }
}

function explain() {
  at("policy-said").textContent = POLICIES[at("policy").value] ?? "";
}

async function score(files) {
  if (busy || !files.length) return;
  if (!Object.keys(thresholds).length && !(await start())) return;
  busy = true;
  document.querySelectorAll("audio").forEach((audio) => URL.revokeObjectURL(audio.src));
  at("results").replaceChildren();
  held = [...files];
  const said = [];
  for (const file of held) {
    say(`Scoring ${file.name} …`);
    const form = new FormData();
    form.append("file", file, file.name);
    try {
      const answer = await ask(`v1/score?policy=${encodeURIComponent(at("policy").value)}`, { method: "POST", body: form });
      said.push(show(file, answer));
    } catch (error) {
      fail(file, error.message);
      said.push(`${file.name} could not be scored: ${error.message}`);
    }
  }
  say(said.length === 1 ? said[0] : `${said.length} recordings done.`);
  busy = false;
}

function card(file) {
  const article = at("card").content.firstElementChild.cloneNode(true);
  article.querySelector("h2").textContent = file.name;
  at("results").append(article);
  return article;
}

function fail(file, why) {
  const article = card(file);
  article.querySelector(".decision").textContent = "Not scored";
  article.querySelector(".meaning").textContent = why;
  article.querySelectorAll("figure, audio, details").forEach((part) => part.remove());
}

function show(file, answer) {
  const found = answer.files[0];
  const article = card(file);
  article.classList.add(found.decision);
  const decision = found.decision === "spoof" ? "Taken for a machine (spoof)" : "Taken for a person (bona fide)";
  article.querySelector(".decision").textContent = decision;
  article.querySelector(".meaning").textContent =
    `Score ${signed(found.llr)}: such a recording is ${found.meaning}. Below ${signed(answer.threshold)} it is called a fake.`;
  const spoofed = found.windows.filter((window) => window.llr < answer.threshold).length;
  const stretches = found.windows.length === 1 ? "scored as one stretch" : `in ${found.windows.length} stretches, ${spoofed || "none"} of them below the line`;
  article.querySelector("figcaption").textContent =
    `${seconds(found.seconds)}, ${stretches}. Up is like real voices, down like fakes; the line is at ${signed(answer.threshold)}.`;
  const svg = article.querySelector("svg");
  svg.setAttribute("aria-label", `Scores along the recording. ${article.querySelector("figcaption").textContent}`);
  new ResizeObserver(() => draw(svg, found, answer.threshold)).observe(svg);
  article.querySelector(".scroll").setAttribute("aria-label", `Scores of the stretches of ${file.name}`);
  for (const window of found.windows) {
    const row = article.querySelector("tbody").insertRow();
    for (const text of [window.start.toFixed(1), window.end.toFixed(1), signed(window.llr)]) row.insertCell().textContent = text;
  }
  const audio = article.querySelector("audio");
  audio.setAttribute("aria-label", `Listen to ${file.name}`);
  audio.src = URL.createObjectURL(file);
  audio.addEventListener("error", () => audio.remove()); // a format that this browser does not play
  return `${file.name}: ${decision}, score ${signed(found.llr)}.`;
}

function draw(svg, found, threshold) {
  const width = svg.clientWidth, height = svg.clientHeight;
  if (width < 50) return; // not laid out, or not any more
  const top = 2, bottom = height - 22, left = 2, right = width - 2;
  const values = found.windows.map((window) => window.llr);
  const high = Math.max(4, threshold + 2, ...values) * 1.05, low = Math.min(-4, threshold - 2, ...values) * 1.05;
  const x = (time) => left + (right - left) * (time / found.seconds);
  const y = (llr) => bottom - (bottom - top) * ((llr - low) / (high - low));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const add = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    svg.append(element);
    return element;
  };
  add("rect", { class: "ground", x: left, y: top, width: right - left, height: bottom - top });
  const steps = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 3600];
  const step = steps.find((size) => found.seconds / size <= width / 70) ?? 3600;
  for (let time = 0; time <= found.seconds; time += step) {
    add("line", { class: "tick", x1: x(time), x2: x(time), y1: top, y2: bottom + 5 });
    const anchor = time === 0 ? "start" : x(time) > right - 20 ? "end" : "middle";
    add("text", { x: x(time), y: bottom + 18, "text-anchor": anchor }, step >= 60 ? `${time / 60} min` : `${time} s`);
  }
  for (const window of found.windows) {
    const gap = x(window.end) - x(window.start) > 6 ? 1 : 0;
    const from = y(threshold), to = y(window.llr);
    const bar = add("rect", {
      class: window.llr < threshold ? "spoof" : "bonafide",
      x: x(window.start) + gap, width: Math.max(1, x(window.end) - x(window.start) - 2 * gap),
      y: Math.min(from, to), height: Math.max(1, Math.abs(from - to)),
    });
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${window.start.toFixed(1)} to ${window.end.toFixed(1)} s: ${signed(window.llr)}`;
    bar.append(title);
  }
  add("line", { class: "threshold", x1: left, x2: right, y1: y(threshold), y2: y(threshold) });
}

// Recording. Browsers' own recorders write formats that the service does not read, so samples are taken as they are.
let recorder = null;

async function record() {
  if (recorder) return stop();
  let stream, context;
  try {
    if (!navigator.mediaDevices) throw new Error("this page was not loaded over https or from this machine");
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: raw });
    context = new AudioContext();
    await context.audioWorklet.addModule("recorder.js");
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    context?.close();
    return say(`The microphone cannot be used: ${error.message}`, true);
  }
  const blocks = [];
  let samples = 0;
  const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  node.port.onmessage = ({ data }) => {
    blocks.push(data);
    samples += data.length;
    if (blocks.length % 8 === 0) {
      at("level").value = Math.sqrt(Math.max(...data.map(Math.abs)));
      at("clock").textContent = `${(samples / context.sampleRate).toFixed(1)} s`;
    }
    if (samples > LONGEST * context.sampleRate) stop();
  };
  context.createMediaStreamSource(stream).connect(node);
  recorder = { stream, context, blocks };
  at("record").textContent = "Stop and score";
  at("record").setAttribute("aria-pressed", "true");
  at("recording").hidden = false;
  say("Recording. Speak, then press the button again.");
}

function stop() {
  const { stream, context, blocks } = recorder;
  recorder = null;
  stream.getTracks().forEach((track) => track.stop());
  context.close();
  at("record").textContent = "Record";
  at("record").setAttribute("aria-pressed", "false");
  at("recording").hidden = true;
  const clock = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  score([new File([wav(blocks, context.sampleRate)], `recording ${clock}.wav`, { type: "audio/wav" })]);
}

function wav(blocks, rate) {
  const count = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (offset, letters) => [...letters].forEach((letter, i) => view.setUint8(offset + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * count, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * count, true);
  let offset = 44;
  for (const block of blocks) for (const x of block) {
    view.setInt16(offset, Math.round(32767 * Math.max(-1, Math.min(1, x))), true);
    offset += 2;
  }
  return view.buffer;
}

at("files").addEventListener("change", () => { score([...at("files").files]); at("files").value = ""; });
at("record").addEventListener("click", record);
at("policy").addEventListener("change", () => { explain(); score(held); });
at("token").addEventListener("change", start);
const drop = at("give");
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  score([...event.dataTransfer.files]);
});
start();
