"use strict";
const byId = (id) => document.getElementById(id);
let running = null; // the AbortController of the request

function headers() {
  const key = byId("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

function showProblem(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = !message;
}

async function problemOf(answer) {
  if (answer.status === 401) byId("key-field").hidden = false;
  const body = await answer.json().catch(() => ({}));
  return new Error(body.error ? body.error.message : `The server answered ${answer.status}.`);
}

// Yields the data of server-sent events.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) yield part.replace(/^data: /, "");
  }
}

async function write(prompt, start) {
  const text = byId("text");
  text.textContent = start;
  showProblem("");
  running = new AbortController();
  for (const id of ["write", "go-on"]) byId(id).disabled = true;
  byId("stop").disabled = false;
  byId("status").textContent = "Writing …";
  const began = performance.now();
  let tokens = 0;
  try {
    const seed = byId("seed").value;
    const answer = await fetch("/v1/completions", {
      method: "POST",
      headers: headers(),
      signal: running.signal,
      body: JSON.stringify({
        prompt,
        max_tokens: Number(byId("length").value),
        temperature: Number(byId("temperature").value),
        top_p: Number(byId("top-p").value),
        ...(seed && { seed: Number(seed) }),
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!answer.ok) throw await problemOf(answer);
    for await (const event of events(answer.body)) {
      if (event === "[DONE]") break;
      const chunk = JSON.parse(event);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.usage) tokens = chunk.usage.completion_tokens;
      for (const choice of chunk.choices) text.append(choice.text);
    }
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error.message);
  }
  running = null;
  const seconds = (performance.now() - began) / 1000;
  byId("status").textContent = tokens ? `${tokens} tokens in ${seconds.toFixed(1)} s` : "";
  byId("write").disabled = false;
  byId("stop").disabled = true;
  byId("go-on").disabled = !text.textContent;
}

byId("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = byId("prompt").value;
  if (!running) write(prompt, prompt);
});
byId("go-on").addEventListener("click", () => {
  const text = byId("text").textContent;
  write(text, text);
});
byId("stop").addEventListener("click", () => running && running.abort());

async function describe() {
  byId("address").textContent = `${location.origin}/v1`;
  const answer = await fetch("/v1/models", { headers: headers() });
  if (!answer.ok) throw await problemOf(answer);
  byId("name").textContent = (await answer.json()).data[0].id;
}
byId("key").addEventListener("change", () => describe().then(() => showProblem(""), (error) => showProblem(error.message)));

// The address can hold settings and start a text: /#prompt=Day&seed=1&length=200
const given = new URLSearchParams(location.hash.slice(1));
for (const id of ["prompt", "temperature", "top-p", "length", "seed"]) {
  if (given.has(id)) byId(id).value = given.get(id);
}
describe().then(
  () => given.size && byId("controls").requestSubmit(),
  (error) => showProblem(error.message),
);
