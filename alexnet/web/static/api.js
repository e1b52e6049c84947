// Requests to the server's interface, with the token if there is one.

const KEY = "alexnet-token";

// The token comes after "#token=" in the address, which browsers do not send to servers.
const inAddress = new URLSearchParams(location.hash.slice(1)).get("token");
if (inAddress) {
  sessionStorage.setItem(KEY, inAddress);
  history.replaceState(null, "", location.pathname);
}

export function setToken(token) {
  sessionStorage.setItem(KEY, token.trim().replace(/^.*#token=/, ""));
}

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Return the JSON of an answer; throw an ApiError with the server's line.
export async function api(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? {Authorization: `Bearer ${token}`} : {};
  let response;
  try {
    response = await fetch(path, {...options, headers});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer: is it still running?", 0);
  }
  const answer = await response.json().catch(() => ({error: `the server answers with status ${response.status}`}));
  if (!response.ok) throw new ApiError(answer.error, response.status);
  return answer;
}
