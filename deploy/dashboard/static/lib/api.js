// Asks the server. A failure is an ApiError with a kind and a sentence for a person.

export class ApiError extends Error {
  /** kind: unauthorised, missing, refused, busy, disconnected, broken. */
  constructor(kind, sentence) {
    super(sentence);
    this.kind = kind;
  }
}

const KINDS = { 401: "unauthorised", 404: "missing", 503: "busy" };
const LIMIT_MS = 20000;

/** GET /api/PATH with parameters; empty ones are left out. `signal` ends it early (then the browser's AbortError is thrown). */
export async function get(path, params = {}, signal = undefined) {
  const response = await asked(address(path, params), {}, signal);
  return response.json().catch(() => {
    throw new ApiError(
      "broken",
      `The server's answer to ${path} was cut or is no JSON. Reload the page; if it stays so, restart tributary dashboard.`,
    );
  });
}

/** The address of an API route, for downloads. */
export function address(path, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return kept.length ? `/api/${path}?${new URLSearchParams(kept)}` : `/api/${path}`;
}

/** Hand the token over; the server answers with a cookie that scripts can't read. */
export async function login(token) {
  const headers = { "Content-Type": "application/json" };
  await asked("/api/login", { method: "POST", headers, body: JSON.stringify({ token }) });
}

async function asked(url, options, signal) {
  const limit = AbortSignal.timeout(LIMIT_MS);
  const both = signal ? AbortSignal.any([signal, limit]) : limit;
  let response;
  try {
    response = await fetch(url, { ...options, signal: both, credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("disconnected", "The dashboard's server does not answer.");
  }
  if (response.ok) return response;
  throw new ApiError(KINDS[response.status] ?? "refused", await reason(response));
}

async function reason(response) {
  const said = await response.json().catch(() => ({}));
  return typeof said.error === "string" ? said.error : `The server answered ${response.status} ${response.statusText}.`;
}
