// Requests to the server. A failed request throws an ApiError with a kind and a sentence for the user.

export class ApiError extends Error {
  /** kind: unauthorised, missing, refused, busy, disconnected, broken. */
  constructor(kind, sentence) {
    super(sentence);
    this.kind = kind;
  }
}

const KINDS = { 401: "unauthorised", 404: "missing", 503: "busy" };
const TIMEOUT_MS = 20000;

/** GET /api/PATH; empty parameters are omitted. `signal` aborts the request (then the browser's AbortError is thrown). */
export async function get(path, params = {}, signal = undefined) {
  const response = await request(address(path, params), {}, signal);
  return response.json().catch(() => {
    throw new ApiError(
      "broken",
      `The response to ${path} is incomplete or not JSON. Reload the page; if that does not help, restart tributary dashboard.`,
    );
  });
}

/** The address of an API route, for downloads. */
export function address(path, params = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return kept.length ? `/api/${path}?${new URLSearchParams(kept)}` : `/api/${path}`;
}

/** Send the token; the server responds with a cookie that scripts can't read. */
export async function login(token) {
  const headers = { "Content-Type": "application/json" };
  await request("/api/login", { method: "POST", headers, body: JSON.stringify({ token }) });
}

async function request(url, options, signal) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const combined = signal ? AbortSignal.any([signal, timeout]) : timeout;
  let response;
  try {
    response = await fetch(url, { ...options, signal: combined, credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("disconnected", "The dashboard server does not respond.");
  }
  if (response.ok) return response;
  throw new ApiError(KINDS[response.status] ?? "refused", await reason(response));
}

async function reason(response) {
  const body = await response.json().catch(() => ({}));
  return typeof body.error === "string" ? body.error : `The server responded ${response.status} ${response.statusText}.`;
}
