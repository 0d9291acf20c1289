// The controls of the page, and the text that the engine writes in short slices of time.
//
// A page whose address has settings starts to write when it opens:
// #seed=1&prompt=Day&temperature=0.8&top-p=0.9&length=500&speed=max&surprisal=1
"use strict";

(() => {
  const SLICE_MS = 10; // computing time before the browser may draw and react
  const PART_CHARACTERS = 1500; // a text is laid out in parts of this size, so that it stays fast
  const LONGEST_PART = 6000; // the longest part of a text without newlines
  const SPOKEN_SPEED = 40; // characters a second up to which lines are read aloud
  const LEVELS = [1, 2, 4, 6]; // bits from which a symbol is marked more strongly
  const LEVEL_NAMES = ["below 1 bit", "1 to 2", "2 to 4", "4 to 6", "6 bits and more"];

  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("model").textContent);
  const network = engine.predictor(data);
  const tokenizer = new engine.Tokenizer(data.tokenizer);
  const unit = data.tokenizer.units;
  const count = (n) => n.toLocaleString("en");
  const fields = ["prompt", "temperature", "top-p", "seed", "length"].map(at);

  let writing = null; // the current text, also while it is paused
  let running = false;
  let timer = null;

  // ---- The text on the page ----

  // Pieces of text with their surprisal, laid out in parts that end at newlines. A part is marked
  // only while it is near the window.
  class Paper {
    constructor(root) {
      this.root = root;
      this.clear();
      this.watcher = new IntersectionObserver((entries) => this.seen(entries), {
        rootMargin: "800px 0px",
      });
    }

    clear() {
      for (const part of this.parts ?? []) this.watcher.unobserve(part.element);
      this.root.replaceChildren();
      this.pieces = [];
      this.bits = [];
      this.parts = [];
      this.marks = this.marks ?? false;
      this.byElement = new Map();
    }

    // `bits` is null for the prompt.
    add(pieces, bits) {
      pieces.forEach((piece, i) => {
        let part = this.parts.at(-1);
        const full =
          !part ||
          (part.size >= PART_CHARACTERS && part.ended) ||
          (part.size >= LONGEST_PART && /\s$/.test(this.pieces.at(-1)));
        if (full) part = this.begin();
        this.pieces.push(piece);
        this.bits.push(bits === null ? null : bits[i]);
        part.stop += 1;
        part.size += piece.length;
        part.ended = piece.endsWith("\n");
      });
      for (const part of this.parts) if (part.shown < part.stop) this.show(part);
    }

    begin() {
      const element = document.createElement("div");
      const start = this.pieces.length;
      const part = { element, start, stop: start, shown: start, size: 0, ended: false };
      Object.assign(part, { marked: this.marks, near: true });
      this.parts.push(part);
      this.byElement.set(element, part);
      this.root.append(element);
      this.watcher.observe(element);
      return part;
    }

    show(part) {
      const marked = this.marks && part.near;
      if (part.marked !== marked) {
        part.element.replaceChildren();
        part.shown = part.start;
        part.marked = marked;
      }
      let end = part.element.lastChild;
      for (let i = part.shown; i < part.stop; i++) {
        const bits = this.bits[i];
        const level = marked && bits !== null ? levelOf(bits) : 0;
        const kind = bits === null ? "given" : level > 0 ? `s${level}` : "";
        if (kind === "" && end?.nodeType === Node.TEXT_NODE) {
          end.appendData(this.pieces[i]);
        } else if (kind === "given" && end?.className === "given") {
          end.firstChild.appendData(this.pieces[i]);
        } else if (kind === "") {
          end = document.createTextNode(this.pieces[i]);
          part.element.append(end);
        } else {
          end = document.createElement("span");
          end.className = kind;
          end.textContent = this.pieces[i];
          end.title = kind === "given" ? "your prompt" : `${bits.toFixed(1)} bits`;
          part.element.append(end);
        }
      }
      part.shown = part.stop;
    }

    seen(entries) {
      for (const entry of entries) {
        const part = this.byElement.get(entry.target);
        if (!part) continue;
        part.near = entry.isIntersecting;
        if (part.near && part.marked !== this.marks) this.show(part);
      }
    }

    setMarks(on) {
      this.marks = on;
      for (const part of this.parts) if (part.near) this.show(part);
    }

    text() {
      return this.pieces.join("");
    }
  }

  const levelOf = (bits) => LEVELS.filter((edge) => bits >= edge).length;
  const paper = new Paper(at("text"));

  // ---- One text ----

  class Writing {
    constructor(prompt, ids, settings) {
      this.settings = settings;
      this.toRead = ids.length > 0 ? ids : [data.start_token];
      this.read = 0;
      this.sampler = new engine.Sampler(network, settings.seed, settings);
      this.decoder = new engine.Decoder();
      this.left = settings.length;
      this.written = 0;
      this.characters = 0;
      this.bits = 0;
      this.pending = 0;
      this.spoken = "";
      if (prompt) paper.add([prompt], null);
    }

    // Reads or writes at most `most` symbols until `deadline`, and shows them.
    work(deadline, most) {
      const pieces = [];
      const bits = [];
      let done = 0;
      try {
        do {
          if (this.read < this.toRead.length) {
            this.sampler.feed(this.toRead[this.read++]);
            continue;
          }
          if (this.left === 0 || done >= most) break;
          const token = this.sampler.choose();
          this.left -= 1;
          done += 1;
          this.bits += this.sampler.bits;
          this.pending += this.sampler.bits;
          let piece = this.decoder.push(tokenizer.bytes[token]);
          if (this.left === 0) piece += this.decoder.flush();
          if (piece === "") continue;
          pieces.push(piece);
          bits.push(this.pending);
          this.pending = 0;
        } while (performance.now() < deadline);
      } finally {
        this.written += done;
        if (pieces.length > 0) this.put(pieces, bits);
      }
      return done;
    }

    put(pieces, bits) {
      paper.add(pieces, bits);
      const text = pieces.join("");
      this.characters += Array.from(text).length;
      this.speak(text);
    }

    // Announces whole lines to a screen reader, at speeds that it can follow.
    speak(text) {
      const speed = speedOf();
      if (speed === Infinity || speed > SPOKEN_SPEED) {
        this.spoken = "";
        return;
      }
      this.spoken += text;
      const end = this.spoken.search(/\n(?!.*\n)/s);
      const line = end >= 0 ? this.spoken.slice(0, end) : "";
      if (end < 0 && this.spoken.length < 300) return;
      const element = document.createElement("p");
      element.textContent = (line || this.spoken).trim();
      this.spoken = end >= 0 ? this.spoken.slice(end + 1) : "";
      if (element.textContent) at("spoken").replaceChildren(element);
    }
  }

  // ---- Running ----

  const speedOf = () => Number(at("speed").value) || Infinity;

  // A message arrives after the browser has drawn, without the minimum delay of timers.
  const channel = new MessageChannel();
  channel.port1.onmessage = () => tick();
  const soon = () => channel.port2.postMessage(0);

  let due = 0; // symbols that the speed allows so far
  let clock = 0;
  let paceSince = { time: 0, written: 0 };

  function tick() {
    if (!running) return;
    const now = performance.now();
    const speed = speedOf();
    const reading = writing.read < writing.toRead.length;
    due = Math.min(due + ((now - clock) / 1000) * speed, Math.max(1, speed / 4));
    clock = now;
    try {
      due -= writing.work(now + SLICE_MS, speed === Infinity ? 4096 : Math.floor(due));
      follow();
    } catch (error) {
      halt(`${error.message} Use another model.`);
      return;
    }
    if (speed === Infinity) due = 0;
    showPace(now);
    if (writing.left === 0) halt(summary("Done"));
    else if (reading || speed === Infinity) soon();
    else timer = setTimeout(tick, Math.max(8, 1000 / speed));
  }

  // Keeps the end of the text in sight while the person has not scrolled away from it.
  let following = true;
  const below = () => at("foot").getBoundingClientRect().bottom - innerHeight;

  function follow() {
    if (following && below() > 0) scrollBy({ top: below(), behavior: "instant" });
  }

  function run(message) {
    running = true;
    following = true;
    due = 1;
    clock = performance.now();
    paceSince = { time: clock, written: writing.written };
    at("status").textContent = message;
    // Disabling the focused field would drop the focus.
    if (fields.includes(document.activeElement)) at("write").focus({ preventScroll: true });
    showButtons();
    soon();
  }

  function halt(message) {
    running = false;
    clearTimeout(timer);
    at("status").textContent = message;
    at("pace").textContent = "";
    showButtons();
    follow();
  }

  function summary(how) {
    const bits = writing.characters ? writing.bits / writing.characters : 0;
    const { seed } = writing.settings;
    const surprise = `${bits.toFixed(2)} bits a character`;
    return `${how}: ${count(writing.characters)} characters, ${surprise}. Seed ${seed}.`;
  }

  function showPace(now) {
    const seconds = (now - paceSince.time) / 1000;
    if (seconds < 0.5) return;
    const pace = Math.round((writing.written - paceSince.written) / seconds);
    at("pace").textContent = `${count(pace)} ${unit} a second`;
    paceSince = { time: now, written: writing.written };
  }

  function showButtons() {
    at("write").textContent = running ? "Stop" : "Write";
    for (const field of fields) field.disabled = running;
    at("go-on").disabled = running || writing === null;
    at("copy").disabled = paper.pieces.length === 0 && !running;
    at("clear").disabled = writing === null;
    at("empty").hidden = writing !== null;
    at("keep-seed").hidden = running || writing === null || !writing.settings.drawn;
  }

  // ---- The fields ----

  function start() {
    const prompt = at("prompt").value;
    const { ids, unknown } = tokenizer.encode(prompt);
    showUnknown(unknown);
    if (unknown.length > 0 || !at("controls").reportValidity()) return;
    const drawn = at("seed").value === "";
    const seed = drawn ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(at("seed").value);
    paper.clear();
    at("spoken").replaceChildren();
    writing = new Writing(prompt, ids, {
      seed,
      drawn,
      temperature: Number(at("temperature").value),
      topP: Number(at("top-p").value),
      length: Number(at("length").value),
    });
    run(`Writing. Seed ${seed}.`);
  }

  const named = (character) => {
    const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    const name = { "\t": "the tab", "\n": "the newline", " ": "the space" }[character];
    if (name) return name;
    return /[\p{C}\p{Z}]/u.test(character) ? code : `“${character}” (${code})`;
  };

  function showUnknown(unknown) {
    at("prompt-error").hidden = unknown.length === 0;
    at("prompt").setAttribute("aria-invalid", String(unknown.length > 0));
    if (unknown.length === 0) return;
    const some = unknown.slice(0, 8).map(named).join(", ");
    const more = unknown.length > 8 ? `, and ${unknown.length - 8} more` : "";
    at("unknown").textContent = `The model has no symbol for ${some}${more}.`;
    at("prompt").focus();
  }

  function leaveOut() {
    const unknown = new Set(tokenizer.encode(at("prompt").value).unknown);
    at("prompt").value = Array.from(at("prompt").value)
      .filter((character) => !unknown.has(character))
      .join("");
    showUnknown([]);
    at("prompt").focus();
  }

  function showValues() {
    at("temperature-value").textContent = Number(at("temperature").value).toFixed(2);
    at("top-p-value").textContent = Number(at("top-p").value).toFixed(2);
    const speed = speedOf();
    at("speed-hint").textContent = speed === Infinity ? "As fast as possible." : `${speed} ${unit} a second.`;
  }

  async function copy() {
    const text = paper.text();
    const before = at("status").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Some browsers forbid the clipboard to pages opened from a file: copy a selection.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      at("copy").focus();
      if (!copied) {
        at("status").textContent = "The browser did not allow copying: select the text instead.";
        return;
      }
    }
    at("status").textContent = "Copied.";
    setTimeout(() => {
      if (at("status").textContent === "Copied.") at("status").textContent = before;
    }, 2000);
  }

  function clear() {
    halt("");
    writing = null;
    paper.clear();
    at("spoken").replaceChildren();
    showButtons();
    at("write").focus();
  }

  function goOn() {
    const length = Number(at("length").value);
    if (writing.left === 0 && at("controls").reportValidity()) writing.left = length;
    if (writing.left > 0) run(`Continuing. Seed ${writing.settings.seed}.`);
  }

  function setSurprisal() {
    at("legend").hidden = !at("surprisal").checked;
    paper.setMarks(at("surprisal").checked);
  }

  // ---- The address ----

  // Sets a field if a person could have set the value.
  function setField(id, value) {
    const field = at(id);
    const before = field.value;
    if (field.type === "number" || field.type === "range") {
      const number = Number(value);
      const fits = value.trim() !== "" && number >= Number(field.min) && number <= Number(field.max);
      if (!fits || (field.type === "number" && !Number.isInteger(number))) return;
      if (field.type === "range") field.step = "any"; // 0.73 is as good as 0.75
    }
    field.value = value;
    if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = before;
  }

  function readAddress() {
    const settings = new URLSearchParams(location.hash.slice(1));
    const names = ["prompt", "temperature", "top-p", "seed", "length", "speed", "surprisal"];
    if (!names.some((name) => settings.has(name))) return;
    if (running) halt("");
    for (const field of fields) if (settings.has(field.id)) setField(field.id, settings.get(field.id));
    const speed = settings.get("speed");
    if (speed === "max") at("speed").value = "0";
    else if (Number(speed) >= 1) setSpeed(Math.min(Number(speed), 100000));
    if (settings.has("surprisal")) at("surprisal").checked = settings.get("surprisal") === "1";
    showValues();
    setSurprisal();
    start();
  }

  function setSpeed(speed) {
    const value = String(Math.round(speed));
    if (![...at("speed").options].some((option) => option.value === value)) {
      at("speed").append(new Option("Your own", value));
    }
    at("speed").value = value;
  }

  // ---- Start ----

  at("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) halt(summary("Stopped"));
    else start();
  });
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
  });
  at("prompt").addEventListener("input", () => showUnknown([]));
  at("controls").addEventListener("input", showValues);
  at("speed").addEventListener("change", () => {
    if (!running) return;
    clearTimeout(timer);
    due = 1;
    tick();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) halt(summary("Stopped"));
  });
  at("leave-out").addEventListener("click", leaveOut);
  at("go-on").addEventListener("click", goOn);
  at("copy").addEventListener("click", copy);
  at("clear").addEventListener("click", clear);
  at("surprisal").addEventListener("change", setSurprisal);
  at("keep-seed").addEventListener("click", () => {
    at("seed").value = String(writing.settings.seed);
    at("keep-seed").hidden = true;
    at("seed").focus();
  });
  window.addEventListener("hashchange", readAddress);
  window.addEventListener("scroll", () => (following = below() < 60), { passive: true });

  for (const [name, value] of data.facts) {
    const group = document.createElement("div");
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    group.append(term, description);
    at("facts").append(group);
  }
  const explained = document.createElement("p");
  explained.textContent = "Surprisal of each symbol, in bits:";
  at("legend").append(explained);
  LEVEL_NAMES.forEach((name, level) => {
    const entry = document.createElement("span");
    const sample = document.createElement("span");
    sample.textContent = "abc";
    if (level > 0) sample.className = `s${level}`;
    entry.append(sample, ` ${name}`);
    at("legend").append(entry);
  });
  at("length-hint").textContent = `In ${unit}.`;
  showValues();
  showButtons();
  readAddress();
})();
