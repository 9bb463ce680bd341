// The shapes of /api/v1 (internal/api/openapi.yaml), as far as the pages use them.
export type State = 'NORMAL' | 'DEGRADED' | 'FAILOVER' | 'RECOVERY' | ''
export type Syntax = 'npl' | 'yaml'
export interface Problem { title: string; status: number; detail: string; diagnostics?: Finding[] }
export interface Session { role: 'admin' | 'read'; by: 'socket' | 'token' | 'cookie'; who?: string; until?: string }
export interface Policy { file: string; hash: string; since: string; rules: number; routes: number }
export interface Diagnostic { code: string; severity: Severity; file?: string; line?: number; column?: number; message: string; help?: string }
export type Severity = 'error' | 'warning' | 'hint'
export interface Threshold { enter: number; exit: number }
export interface Uplink {
  name: string; dev: string; primary?: boolean; state: State; since?: string; unknown?: boolean; up: boolean; share: number
  verdict?: string; why?: string; rtt_ms: number; rtt_p90_ms: number; loss: number; error_rate: number; penalty: number
  hold_until?: string; suppressed?: boolean; forced?: { state: State; shadow: State; until?: string; reason?: string }
  thresholds?: { rtt_ms: Threshold; loss: Threshold; error_rate: Threshold }
}
export interface Confirm {
  n: number; hash: string; before: number; old: string; mode: 'time' | 'probe'; who: string; since: string; deadline: string
  left_seconds: number; error?: string
}
export interface Revert { n: number; to: number; hash: string; time: string; why: string; verified: boolean }
export interface Status {
  version: string; pid: number; started: string; now: string; mode: 'enforce' | 'observe'; state_dir?: string; policy: Policy
  error: { code: string; time: string; message: string; diagnostics: Diagnostic[] } | null
  enforcement?: string; drift?: { time: string; what: string; count: number }; confirm?: Confirm; reverted?: Revert
  state: State; since?: string; uplinks: Uplink[]; sources: { name: string; error?: string; facts?: { fact: string; hook?: string; error?: string }[] }[]
  schedules?: { name: string; value: string }[]; conditions?: { name: string; value: string }[]
  quotas?: { name: string; used: number; limit: number; per: string; exceeded: boolean }[]
  flows: number; names: number; decisions: number; hits: { rule: string; decisions: number }[] | null; drops: Record<string, number>
}
export interface Transition { time: string; uplink: string; from: State; to: State; why: string }
export interface StateAnswer { now: string; state: State; since?: string; uplinks: Uplink[]; transitions: Transition[]; lost: number }
export interface Series { name: string; uplink: string; values: (number | null)[] }
export interface Range { from: string; step_seconds: number; series: Series[] }
export type Facts = Record<string, string | number | null | string[]>
export interface Answer {
  rule: string | null; action: string; target: string | string[] | null; route: string | null; why: string; default?: boolean
  log?: boolean; final?: boolean; pending?: string[]; throttle?: string | null
}
export interface Near { rule: string | null; failed: string }
export interface Explanation extends Answer { runner_up: string | null; specificity: Record<string, unknown>; near: Near[] }
export interface Flow {
  id: string; flow: Facts; name?: string; name_from?: string; decision: Answer; uplink?: string; pinned?: boolean; pinned_route?: string; killed?: boolean
  source: string; age_seconds: number; rtt_ms: number; retransmits: number; bytes_up: number; bytes_down: number; up_rate: number; down_rate: number
}
export interface Flows { now: string; total: number; matched: number; flows: Flow[] }
export interface Decision extends Answer {
  id: string; time: string; event: string; mode: string; policy: string; near?: Near[]; rule_src?: string; state?: State; flow: Facts
  name?: string; name_from?: string; uplink?: string; pinned?: boolean; pinned_route?: string; source?: string; text?: string
}
export interface Ended { id: string; time: string; bytes_up: number; bytes_down: number; duration_ms?: number; rtt_ms?: number; reason?: string }
export interface PolicyEvent { time: string; result: string; hash: string; n?: number; who: string; detail?: string }
export interface LogLine { time: string; level: 'DEBUG' | 'INFO' | 'WARN' | 'ERROR'; msg: string; record?: Decision; [key: string]: unknown }
export interface Rule {
  name: string; file: string; line: number; priority: number; specificity: string; action: string; states: State[]; disabled?: boolean
  decisions: number; dead?: boolean; findings?: Diagnostic[]
}
export interface Rules { policy: Policy; rules: Rule[]; default: { action: string; decisions: number }; dead_up_to?: number }
export interface Fix { title: string; from: number; to: number; insert: string }
export interface Finding {
  code: string; severity: Severity; message: string; help?: string; file?: string; line: number; column: number; from: number; to: number
  notes?: { message: string; from: number; to: number; file?: string }[]; fixes?: Fix[]
}
export interface Lint { ok: boolean; rules: number; findings: Finding[]; dead_up_to?: number }
export interface Completion { from: number; to: number; incomplete: boolean; items: { label: string; kind?: string; detail?: string; doc?: string }[] }
export interface TestResult { ok: boolean; tried: number; failed: number; unproven: number; findings: Finding[] }
export interface Config { name: string; syntax: Syntax; text: string; hash: string; n: number }
export interface Stage {
  ok: boolean; text: string; etag?: string; base: string; base_gone?: boolean; hash?: string; rules?: number; tried?: number
  added?: number; removed?: number; diff?: string; plan?: string; error?: string; diagnostics: Diagnostic[]; time?: string; who?: string
}
export interface Version {
  n: number; hash: string; time: string; who: string; trigger: string; outcome?: string; note?: string; before: number; rules: number
  added: number; removed: number; live?: boolean; diff?: string; policy?: { main: string }
}
export interface ChangeResult {
  result: 'applied' | 'unchanged' | 'rejected' | 'pending' | 'confirmed' | 'reverted'; policy: Policy; n: number; error?: string
  diagnostics: Diagnostic[] | null; warnings?: string[]; confirm?: Confirm; reverted?: Revert; probes?: string[]
}
export interface Replay {
  flows: number; changed: number; changes: { id: string; flow: Facts; name?: string; was: string; is: string }[]; rules: Record<string, number>
}
