// A request in the languages that people use. Each of these runs as it is, with the key in the
// environment variable DARKROOM_API_KEY, or in its own text where `key` is given.

const VARIABLE = "DARKROOM_API_KEY";
const WAIT = 120; // seconds; the most that a submit may wait

// What OpenAI's client has arguments for; the rest goes by extra_body.
const OPENAI = ["model", "prompt", "n", "size", "quality", "style", "output_format", "background"];

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const literal = (value) => JSON.stringify(value); // of text and numbers: the same in Python

function indented(fields, { quoted = true, separator = ": ", by = "    " } = {}) {
  return Object.entries(fields)
    .map(([name, value]) => `${by}${quoted ? `"${name}"` : name}${separator}${literal(value)},\n`)
    .join("");
}

function curl(fields, base, key) {
  const bearer = key ? shell(`Authorization: Bearer ${key}`) : `"Authorization: Bearer $${VARIABLE}"`;
  return `curl -sS ${shell(`${base}/v1/images/generations`)} \\
  -H ${bearer} \\
  -H 'Content-Type: application/json' \\
  -H 'Prefer: wait=${WAIT}' \\
  -d ${shell(JSON.stringify(fields, null, 2))}
`;
}

function python(fields, base, key) {
  return `${key ? "" : "import os\n\n"}import requests

BASE = ${literal(base)}
HEADERS = {"Authorization": "Bearer " + ${key ? literal(key) : `os.environ["${VARIABLE}"]`}}

answer = requests.post(
    BASE + "/v1/images/generations",
    headers=HEADERS,
    json={
${indented(fields, { by: "        " })}    },
)
task = answer.json()
if not answer.ok:
    raise SystemExit(task["error"]["message"])
while task["status"] not in ("completed", "failed"):
    answer = requests.get(BASE + task["poll_url"], headers=HEADERS, params={"wait": 30})
    answer.raise_for_status()
    task = answer.json()
if task["status"] == "failed":
    raise SystemExit(task["error"])
for image in task["data"]:
    print(image["url"])
`;
}

function openai(fields, base, key) {
  const own = Object.fromEntries(Object.entries(fields).filter(([name]) => OPENAI.includes(name)));
  const rest = Object.fromEntries(Object.entries(fields).filter(([name]) => !OPENAI.includes(name)));
  const extra = Object.keys(rest).length
    ? `    extra_body={\n${indented(rest, { by: "        " })}    },\n`
    : "";
  return `${key ? "" : "import os\n\n"}from openai import OpenAI

client = OpenAI(
    base_url=${literal(`${base}/v1`)},
    api_key=${key ? literal(key) : `os.environ["${VARIABLE}"]`},
    default_headers={"Prefer": "wait=${WAIT}"},
)
images = client.images.generate(
${indented(own, { quoted: false, separator: "=" })}${extra})
for image in images.data:
    print(image.url)
`;
}

function javascript(fields, base, key) {
  return `const base = ${literal(base)};
const headers = {
  Authorization: "Bearer " + ${key ? literal(key) : `process.env.${VARIABLE}`},
  "Content-Type": "application/json",
};

let answer = await fetch(base + "/v1/images/generations", {
  method: "POST",
  headers,
  body: JSON.stringify({
${indented(fields, { quoted: false })}  }),
});
let task = await answer.json();
if (!answer.ok) throw new Error(task.error.message);
while (!["completed", "failed"].includes(task.status)) {
  answer = await fetch(base + task.poll_url + "?wait=30", { headers });
  task = await answer.json();
  if (!answer.ok) throw new Error(task.error.message);
}
if (task.status === "failed") throw new Error(task.error);
for (const image of task.data) console.log(image.url);
`;
}

export const LANGUAGES = [
  { id: "curl", name: "curl", write: curl },
  { id: "python", name: "Python", write: python },
  { id: "openai", name: "OpenAI SDK", write: openai },
  { id: "javascript", name: "JavaScript", write: javascript },
];
