import { signal } from '@preact/signals'
import { t } from './i18n'
import type { Finding, Problem, Session } from './types'

// ApiError is a problem answer (RFC 9457), or status 0 where no daemon answers.
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly findings: Finding[] = [],
  ) {
    super(message)
  }
}

// session is who we are to the daemon; null until it is known, or after it ended.
export const session = signal<Session | null>(null)
export const signedOut = signal(false)
// ended is whether it was the daemon that ended the session that there was.
export const ended = signal(false)
export const mayChange = () => session.value?.role === 'admin'

export interface Reply<T> { body: T; etag: string; status: number }

// An answer that has not come within patience, in ms, will not come any more. What tries a
// policy, probes a line or fetches from afar may take its time.
const patience = (method: string, path: string) => (method === 'POST' && !/^(explain|log|config\/confirm)/.test(path) ? 300_000 : 30_000)

// request speaks JSON. Answers of status 422 that are no problem object are results, as the contract says.
export async function request<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Reply<T>> {
  let resp: Response
  let text: string
  try {
    resp = await fetch(`api/v1/${path}`, {
      method,
      credentials: 'same-origin',
      headers: body === undefined ? headers : { 'Content-Type': 'application/json', ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(patience(method, path)),
    })
    text = await resp.text()
  } catch {
    throw new ApiError(0, t('unreachable'))
  }
  if (resp.status === 401 && path !== 'login') {
    ended.value ||= session.value !== null
    session.value = null
    signedOut.value = true
  }
  const type = resp.headers.get('Content-Type') ?? ''
  if (!resp.ok && !(resp.status === 422 && type.startsWith('application/json'))) {
    let problem: Partial<Problem> = {}
    try {
      problem = JSON.parse(text) as Problem
    } catch {
      // The answer comes from something else than netpolicyd; its status has to do.
    }
    throw new ApiError(resp.status, problem.detail ?? `${resp.status} ${resp.statusText}`, problem.diagnostics)
  }
  const parsed = type.startsWith('application/json') ? JSON.parse(text) : text
  return { body: parsed as T, etag: resp.headers.get('ETag') ?? '', status: resp.status }
}

export const get = async <T>(path: string): Promise<T> => (await request<T>('GET', path)).body
export const post = async <T>(path: string, body: unknown = {}, headers?: Record<string, string>): Promise<T> => (await request<T>('POST', path, body, headers)).body
export const put = async <T>(path: string, body: unknown): Promise<T> => (await request<T>('PUT', path, body)).body
export const del = async (path: string): Promise<void> => void (await request<unknown>('DELETE', path))

export async function resume(): Promise<void> {
  try {
    session.value = await get<Session>('session')
    signedOut.value = false
  } catch (err) {
    if (!(err instanceof ApiError) || err.status !== 401) throw err
  }
}

export async function login(token: string): Promise<void> {
  session.value = await post<Session>('login', { token })
  signedOut.value = ended.value = false
}

export async function logout(): Promise<void> {
  await request('POST', 'logout', {})
  session.value = null
  signedOut.value = true
}
