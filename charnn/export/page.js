// The controls of the page, and the text that the engine writes in short slices of time.
//
// A page whose address has settings starts to write when it opens:
// #seed=1&prompt=Day&temperature=0.8&top-p=0.9&length=500&speed=max&surprisal=1&source=network
// #colour=unit&layer=1&unit=37 colours the text by a hidden unit.
"use strict";

(() => {
  const SLICE_MS = 10; // computing time before the browser may draw and react
  const PART_CHARACTERS = 1500; // a text is laid out in parts of this size, so that it stays fast
  const LONGEST_PART = 6000; // the longest part of a text without newlines
  const SPOKEN_SPEED = 40; // characters a second up to which lines are read aloud

  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("model").textContent);
  const models = engine.predictors(data);
  const tokenizer = new engine.Tokenizer(data.tokenizer);
  const unit = data.tokenizer.units;
  const count = (n) => n.toLocaleString("en");
  const fields = ["prompt", "temperature", "top-p", "seed", "length", "source"].map(at);
  const views = ["colour", "layer", "unit"].map(at);

  let writing = null; // the current text, also while it is paused
  let running = false;
  const jobs = []; // functions of a deadline that read text in slices, until they return true
  let timer = null;

  // ---- The text on the page ----

  // Pieces of text with their surprisal in bits and the value of a hidden unit, laid out in parts
  // that end at newlines. A part is coloured only while it is near the window.
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
      this.values = [];
      this.given = [];
      this.parts = [];
      this.colour = this.colour ?? "";
      this.colouring = this.colouring ?? 0; // changes with the colours; 0 for none
      this.byElement = new Map();
    }

    add(pieces) {
      for (const { piece, bits, value, given } of pieces) {
        let part = this.parts.at(-1);
        const full =
          !part ||
          (part.size >= PART_CHARACTERS && part.ended) ||
          (part.size >= LONGEST_PART && /\s$/.test(this.pieces.at(-1)));
        if (full) part = this.begin();
        this.pieces.push(piece);
        this.bits.push(bits);
        this.values.push(value);
        this.given.push(given);
        part.stop += 1;
        part.size += piece.length;
        part.ended = piece.endsWith("\n");
      }
      for (const part of this.parts) if (part.shown < part.stop) this.show(part);
    }

    begin() {
      const element = document.createElement("div");
      const start = this.pieces.length;
      const part = { element, start, stop: start, shown: start, size: 0, ended: false };
      Object.assign(part, { colouring: this.colouring, near: true });
      this.parts.push(part);
      this.byElement.set(element, part);
      this.root.append(element);
      this.watcher.observe(element);
      return part;
    }

    show(part) {
      const colouring = part.near ? this.colouring : 0;
      if (part.colouring !== colouring) {
        part.element.replaceChildren();
        part.shown = part.start;
        part.colouring = colouring;
      }
      let end = part.element.lastChild;
      for (let i = part.shown; i < part.stop; i++) {
        const mark = colouring ? this.mark(i) : "";
        const kind = [...(this.given[i] ? ["given"] : []), ...(mark ? [mark] : [])].join(" ");
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
          end.title = mark ? this.number(i) : "your prompt";
          part.element.append(end);
        }
      }
      part.shown = part.stop;
    }

    // The class of a piece: its colour, stronger for higher numbers.
    mark(i) {
      const number = this.colour === "unit" ? this.values[i] : this.bits[i];
      if (number === null) return "";
      const level = data.steps[this.colour].filter((step) => Math.abs(number) >= step).length;
      if (level === 0) return "";
      return `${this.colour === "surprisal" ? "s" : number < 0 ? "n" : "p"}${level}`;
    }

    number(i) {
      return this.colour === "unit" ? this.values[i].toFixed(2) : `${this.bits[i].toFixed(1)} bits`;
    }

    seen(entries) {
      for (const entry of entries) {
        const part = this.byElement.get(entry.target);
        if (!part) continue;
        part.near = entry.isIntersecting;
        if (part.near && part.colouring !== this.colouring) this.show(part);
      }
    }

    setColour(colour) {
      this.colour = colour;
      this.colouring = colour ? Math.abs(this.colouring) + 1 : 0;
      for (const part of this.parts) if (part.near) this.show(part);
    }

    text() {
      return this.pieces.join("");
    }
  }

  const paper = new Paper(at("text"));

  // ---- One text ----

  class Writing {
    constructor(ids, settings) {
      this.settings = settings;
      this.prompted = ids.length > 0;
      this.toRead = this.prompted ? ids : data.start;
      this.ids = []; // all tokens so far
      this.ends = []; // for each piece on the paper, the number of tokens until its end
      this.sampler = new engine.Sampler(models[settings.source], settings.seed, settings);
      this.decoder = new engine.Decoder();
      this.left = settings.length;
      this.written = 0;
      this.characters = 0;
      this.bits = 0;
      this.pending = 0;
      this.spoken = "";
    }

    get reading() {
      return this.ids.length < this.toRead.length;
    }

    // Reads or writes at most `most` symbols until `deadline`, and shows them.
    work(deadline, most) {
      const pieces = [];
      let done = 0;
      try {
        do {
          const given = this.reading;
          if (!given && (this.left === 0 || done >= most)) break;
          let token;
          if (given) {
            token = this.toRead[this.ids.length];
            this.pending += this.sampler.surprisal(token) ?? NaN;
            this.sampler.feed(token);
          } else {
            token = this.sampler.choose();
            this.left -= 1;
            done += 1;
            this.bits += this.sampler.bits;
            this.pending += this.sampler.bits;
          }
          this.ids.push(token);
          if (given && !this.prompted) {
            this.pending = 0;
            continue;
          }
          let piece = this.decoder.push(tokenizer.bytes[token]);
          if (!given && this.left === 0) piece += this.decoder.flush();
          if (piece === "") continue;
          this.ends.push(this.ids.length);
          const bits = Number.isNaN(this.pending) ? null : this.pending;
          pieces.push({ piece, bits, value: valueOf(this.sampler), given });
          this.pending = 0;
        } while (performance.now() < deadline);
      } finally {
        this.written += done;
        if (pieces.length > 0) this.put(pieces);
      }
      return done;
    }

    put(pieces) {
      paper.add(pieces);
      const text = pieces.map(({ piece, given }) => (given ? "" : piece)).join("");
      this.characters += Array.from(text).length;
      if (text) this.speak(text);
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

  const valueOf = ({ network, memory }) =>
    network.unit(memory, Number(at("layer").value), Number(at("unit").value));

  // Reads a text again for the values of the unit that is now chosen, then colours the text.
  function again(text) {
    const network = models.network;
    const reader = { network, memory: network.state() };
    const values = [];
    let read = 0;
    text.sampler.logits = text.sampler.logits?.slice(); // the network is about to overwrite them
    return (deadline) => {
      while (text === writing && read < text.ids.length && performance.now() < deadline) {
        network.step(text.ids[read++], reader.memory);
        if (text.ends[values.length] === read) values.push(valueOf(reader));
      }
      if (text === writing && read < text.ids.length) return false;
      if (text === writing) {
        paper.values = values;
        paper.setColour(paper.colour);
      }
      return true;
    };
  }

  function begin(job) {
    jobs.push(job);
    if (!running && jobs.length === 1) soon();
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
    const now = performance.now();
    if (jobs.length > 0) {
      if (jobs[0](now + SLICE_MS)) jobs.shift();
      clock = performance.now();
      if (running || jobs.length > 0) soon();
      return;
    }
    if (!running) return;
    const speed = speedOf();
    const { reading } = writing;
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
    at("go-on").disabled = running || writing === null || writing.settings.live;
    at("copy").disabled = paper.pieces.length === 0 && !running;
    at("clear").disabled = writing === null;
    at("empty").hidden = writing !== null;
    at("keep-seed").hidden = at("go-on").disabled || !writing.settings.drawn;
  }

  // ---- The fields ----

  function start() {
    const prompt = at("prompt").value;
    const { ids, unknown } = tokenizer.encode(prompt);
    showUnknown(unknown);
    if (unknown.length > 0 || !isValid()) return;
    const drawn = at("seed").value === "";
    const seed = drawn ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(at("seed").value);
    paper.clear();
    at("spoken").replaceChildren();
    writing = new Writing(ids, {
      seed,
      drawn,
      live: false,
      source: at("source").value,
      temperature: Number(at("temperature").value),
      topP: Number(at("top-p").value),
      length: Number(at("length").value),
    });
    run(`Writing. Seed ${seed}.`);
  }

  // A closed fold would hide the message about a field in it.
  function isValid() {
    if (!at("controls").checkValidity()) at("settings").open = true;
    return at("controls").reportValidity();
  }

  // Colours the prompt while it is typed, unless this would replace a text.
  function readLive() {
    if (running || !at("colour").value || (writing !== null && !writing.settings.live)) return;
    const { ids, unknown } = tokenizer.encode(at("prompt").value);
    if (unknown.length > 0) return;
    const source = at("source").value;
    const before = writing?.toRead ?? [];
    const more = writing?.settings.source === source && before.every((id, i) => id === ids[i]);
    if (!more) paper.clear();
    if (ids.length === 0) writing = null;
    else if (more) writing.toRead = ids;
    else writing = new Writing(ids, { seed: 0, source, length: 0, live: true });
    const text = writing;
    if (text) {
      begin((deadline) => {
        if (text === writing) text.work(deadline, 0);
        return text !== writing || !text.reading;
      });
    }
    showButtons();
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
    if (writing.left === 0 && isValid()) writing.left = length;
    if (writing.left > 0) run(`Continuing. Seed ${writing.settings.seed}.`);
  }

  function setColour() {
    const colour = at("colour").value;
    at("which").hidden = colour !== "unit";
    if (!at("unit").checkValidity()) return;
    showLegend(colour);
    paper.setColour(colour);
    if (colour === "unit" && writing !== null) begin(again(writing));
    readLive();
  }

  function showLegend(colour) {
    at("legend").hidden = colour === "";
    if (colour === "") return;
    const explained = document.createElement("p");
    const cell = data.network.cell === "lstm" ? "tanh of the cell state" : "state";
    const unitName = `${at("layer").value}:${at("unit").value}`;
    explained.textContent =
      colour === "unit" ? `Unit ${unitName}, ${cell}:` : "Surprisal of each symbol, in bits:";
    at("legend").replaceChildren(explained);
    const steps = data.steps[colour];
    const [lowest, highest] = [steps[0], steps.at(-1)];
    const between = steps.slice(1).map((step, i) => `${steps[i]} to ${step}`);
    const entries = [...between, `${highest} or more`].map((name, i) => [i + 1, name]);
    const entry = (kind, name) => {
      const span = document.createElement("span");
      const sample = document.createElement("span");
      sample.textContent = "abc";
      sample.className = kind;
      span.append(sample, ` ${name}`);
      at("legend").append(span);
    };
    if (colour === "surprisal") {
      entry("", `below ${lowest}`);
      for (const [level, name] of entries) entry(`s${level}`, name);
    } else {
      for (const [level, name] of [...entries].reverse()) entry(`n${level}`, `negative, ${name}`);
      entry("", "around 0");
      for (const [level, name] of entries) entry(`p${level}`, `positive, ${name}`);
    }
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
    const names = ["prompt", "temperature", "top-p", "seed", "length", "speed", "surprisal", "source"];
    names.push(...views.map((field) => field.id));
    if (!names.some((name) => settings.has(name))) return;
    if (running) halt("");
    for (const field of [...fields, ...views]) if (settings.has(field.id)) setField(field.id, settings.get(field.id));
    const speed = settings.get("speed");
    if (speed === "max") at("speed").value = "0";
    else if (Number(speed) >= 1) setSpeed(Math.min(Number(speed), 100000));
    if (settings.get("surprisal") === "1") at("colour").value = "surprisal";
    showValues();
    setColour();
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
  at("prompt").addEventListener("input", () => {
    showUnknown([]);
    readLive();
  });
  at("settings").addEventListener("input", showValues);
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
  for (const field of views) field.addEventListener("input", setColour);
  at("source").addEventListener("change", readLive);
  at("keep-seed").addEventListener("click", () => {
    at("seed").value = String(writing.settings.seed);
    at("keep-seed").hidden = true;
    at("settings").open = true;
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
  for (const layer of data.network.layers.keys()) at("layer").append(new Option(layer));
  at("unit").max = String(data.network.hidden_size - 1);
  at("sources").hidden = data.ngrams === null;
  at("settings").open = matchMedia("(min-width: 60rem)").matches;
  at("length-hint").textContent = `In ${unit}.`;
  showValues();
  showButtons();
  readAddress();
})();
