// Asking the server. Every error is one sentence; while the server is away, `away` is told and the caller may try again.

export class Refused extends Error {}
export class Away extends Error {}

const listeners = new Set();
export const onAway = (listener) => listeners.add(listener);
const tell = (away) => listeners.forEach((listener) => listener(away));

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    tell(true);
    throw new Away("the studio does not answer");
  }
  tell(false);
  const isJson = (response.headers.get("content-type") || "").includes("json");
  const content = isJson ? await response.json() : await response.text();
  if (response.ok) return content;
  const sentence = isJson ? content.error : content;
  throw response.status === 507 ? new Away(sentence) : new Refused(sentence);
}

export function get(path, values = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) {
    if (value !== "" && value !== null && value !== undefined) query.set(key, value);
  }
  const text = query.toString();
  return ask(text ? `${path}?${text}` : path);
}

export const post = (path, content = {}) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content) });
