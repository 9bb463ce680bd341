import './state.css'
import { useEffect, useState } from 'preact/hooks'
import { failed, toast } from '../lib/announce'
import { del, get, mayChange, put } from '../lib/api'
import { connected, on, status } from '../lib/events'
import { ago, clock, dateTime, number } from '../lib/format'
import { type Key, t } from '../lib/i18n'
import type { State, StateAnswer, Transition, Uplink } from '../lib/types'
import { Mono, Note, StateMark, stateTone, Title, useAsk, useEvery } from '../ui/parts'

const most = 1000
const spans = [5, 30]

export default function StatePage() {
  const asked = useAsk(() => get<StateAnswer>('state?last=1000'), [])
  const [more, setMore] = useState<Transition[]>([])
  const [span, setSpan] = useState(0)
  const [, tick] = useState(0)
  useEvery(() => tick((n) => n + 1), 1000)
  useEffect(() => on('transitions', (e) => setMore((m) => [...m.slice(-most), e]), asked.again), [])

  const s = status.value
  const before = asked.value?.transitions ?? []
  const last = before.at(-1)?.time ?? ''
  const all = [...before, ...more.filter((m) => m.time > last)]
  const now = s ? new Date(s.now) : new Date()
  const uplinks = s?.uplinks ?? asked.value?.uplinks ?? []
  const lanes = ['', ...uplinks.map((u) => u.name)]
  const young = s !== null && now.getTime() - Date.parse(s.started) < 5 * 60_000
  const minutes = span || (young ? 5 : 30)
  return (
    <>
      <Title page="nav.state">{s && <StateMark state={connected.value ? s.state : ''} />}</Title>
      {asked.error && <Note kind="error">{asked.error}</Note>}
      <section class="card" aria-label={t('state.timeline')}>
        <header>
          <h2 class="grow">{t('state.timeline')}</h2>
          <div class="bar" role="group" aria-label={t('span')}>
            {spans.map((n) => (
              <button key={n} type="button" aria-pressed={n === minutes} onClick={() => setSpan(n)}>
                {t('span.minutes', { n: number(n) })}
              </button>
            ))}
          </div>
        </header>
        <div class="body">
          {lanes.map((lane) => (
            <Lane key={lane} name={lane} minutes={minutes} transitions={all.filter((x) => x.uplink === lane)} state={lane === '' ? (s?.state ?? '') : (uplinks.find((u) => u.name === lane)?.state ?? '')} now={now} began={s ? new Date(s.started) : now} />
          ))}
          <div class="lane axis muted" aria-hidden="true">
            <span />
            <span class="ticks">
              {[minutes, (minutes * 2) / 3, minutes / 3].map((m) => (
                <span key={m}>{clock(new Date(now.getTime() - m * 60_000))}</span>
              ))}
              <span>{clock(now)}</span>
            </span>
          </div>
        </div>
      </section>
      <div class="split">
        <section class="card" aria-label={t('state.transitions')}>
          <header>
            <h2>{t('state.transitions')}</h2>
          </header>
          {all.length === 0 ? (
            <p class="empty">{t('state.quiet')}</p>
          ) : (
            <ol class="events" data-test="transitions">
              {all
                .slice(-40)
                .reverse()
                .map((x) => (
                  <li key={x.time + x.uplink}>
                    <time dateTime={x.time} title={dateTime(new Date(x.time))} class="muted num">
                      {clock(new Date(x.time))}
                    </time>
                    <span>
                      {x.uplink ? <Mono>{x.uplink}</Mono> : t('host')} <StateMark state={x.from} bare /> → <StateMark state={x.to} />
                    </span>
                    <span class="muted why" lang="en" dir="ltr">
                      {x.why}
                    </span>
                  </li>
                ))}
            </ol>
          )}
        </section>
        <Override uplinks={uplinks} now={now} />
      </div>
    </>
  )
}

// Lane is half an hour of one line's states, the present at its end.
function Lane({ name, minutes, transitions, state, now, began }: { name: string; minutes: number; transitions: Transition[]; state: State; now: Date; began: Date }) {
  const from = now.getTime() - minutes * 60_000
  const spans: { state: State; start: number; end: number; why: string }[] = []
  let at = Math.max(from, began.getTime())
  let is: State = transitions[0]?.from ?? state
  let why = ''
  for (const x of transitions) {
    const when = Date.parse(x.time)
    if (when > at) spans.push({ state: is, start: at, end: when, why })
    at = Math.max(at, when)
    is = x.to
    why = x.why
  }
  spans.push({ state: is, start: at, end: Math.max(at, now.getTime()), why })
  const x = (ms: number) => ((ms - from) / (minutes * 60_000)) * 1000
  return (
    <div class="lane">
      {name ? <Mono cut>{name}</Mono> : <span class="cut" title={t('host')}>{t('host')}</span>}
      <svg viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label={`${name || t('host')}: ${t(`state.${state || 'none'}` as Key)}`}>
        <rect class="ground" width="1000" height="20" />
        {spans.map((s) => (
          <rect key={s.start} class={`band ${stateTone(s.state)} ${s.state}`} x={x(s.start)} width={Math.max(2, x(s.end) - x(s.start))} y={height(s.state)} height={20 - height(s.state)}>
            <title>{`${t(`state.${s.state || 'none'}` as Key)} ${clock(new Date(s.start))} – ${clock(new Date(s.end))}${s.why ? `: ${s.why}` : ''}`}</title>
          </rect>
        ))}
      </svg>
    </div>
  )
}
// The worse the state the taller its band, so that it shows without colours.
const height = (s: State) => ({ NORMAL: 14, RECOVERY: 9, DEGRADED: 5, FAILOVER: 0, '': 18 })[s]

function Override({ uplinks, now }: { uplinks: Uplink[]; now: Date }) {
  const [uplink, setUplink] = useState('')
  const [state, setState] = useState<State>('FAILOVER')
  const [span, setSpan] = useState('10m')
  const [reason, setReason] = useState('')
  const forced = uplinks.filter((u) => u.forced)
  const force = async (e: Event) => {
    e.preventDefault()
    try {
      await put('state', { state, uplink: uplink || undefined, for: span, reason })
      toast('ok', t('state.forced'))
      setReason('')
    } catch (err) {
      failed(err)
    }
  }
  const clear = (name: string) => void del(`state?uplink=${encodeURIComponent(name)}`).catch(failed)
  return (
    <section class="card" aria-label={t('state.override')}>
      <header>
        <h2>{t('state.override')}</h2>
      </header>
      <div class="body stack">
        {forced.map((u) => (
          <div key={u.name} class="note warning">
            <div class="grow">
              <Mono>{u.name}</Mono> <StateMark state={u.forced!.state} /> {u.forced!.until && <span class="muted">{t('state.until', { when: ago(new Date(u.forced!.until), now) })}</span>}
              <div class="muted">
                {u.forced!.reason} · {t('state.shadow')} <StateMark state={u.forced!.shadow} />
              </div>
            </div>
            <button type="button" disabled={!mayChange()} onClick={() => clear(u.name)}>
              {t('state.clear')}
            </button>
          </div>
        ))}
        <form class="stack" onSubmit={force}>
          <div class="fields">
            <label class="field">
              <span>{t('col.uplink')}</span>
              <select value={uplink} onChange={(e) => setUplink(e.currentTarget.value)}>
                <option value="">{t('state.primary')}</option>
                {uplinks.map((u) => (
                  <option key={u.name} value={u.name}>
                    {u.name}
                  </option>
                ))}
              </select>
            </label>
            <label class="field">
              <span>{t('state.to')}</span>
              <select value={state} onChange={(e) => setState(e.currentTarget.value as State)}>
                {(['NORMAL', 'DEGRADED', 'FAILOVER', 'RECOVERY'] as const).map((x) => (
                  <option key={x} value={x}>
                    {t(`state.${x}`)}
                  </option>
                ))}
              </select>
            </label>
            <label class="field">
              <span>{t('state.for')}</span>
              <select value={span} onChange={(e) => setSpan(e.currentTarget.value)}>
                {['1m', '10m', '1h', '8h', '24h'].map((x) => (
                  <option key={x}>{x}</option>
                ))}
              </select>
            </label>
          </div>
          <label class="field">
            <span>{t('state.reason')}</span>
            <input required maxLength={200} value={reason} onInput={(e) => setReason(e.currentTarget.value)} />
          </label>
          <div class="bar">
            <button type="submit" disabled={!mayChange() || !reason.trim()}>
              {t('state.force')}
            </button>
          </div>
        </form>
      </div>
    </section>
  )
}
