import './logs.css'
import { useEffect, useState } from 'preact/hooks'
import { get } from '../lib/api'
import { on } from '../lib/events'
import { clock, dateTime } from '../lib/format'
import { t, tn } from '../lib/i18n'
import type { Decision, LogLine } from '../lib/types'
import { Icon } from '../ui/icon'
import { Note, Title, useAsk } from '../ui/parts'
import { targetOf } from './why'

const levels = ['DEBUG', 'INFO', 'WARN', 'ERROR'] as const
const most = 2000
const tones = { DEBUG: '', INFO: 'info', WARN: 'warn', ERROR: 'bad' }

export default function LogsPage() {
  const [level, setLevel] = useState<(typeof levels)[number]>('INFO')
  const [match, setMatch] = useState('')
  const [frozen, setFrozen] = useState<LogLine[] | null>(null) // what a pause holds
  const [lines, setLines] = useState<LogLine[]>([])
  const asked = useAsk(() => get<{ lines: LogLine[]; lost: number }>(`logs?last=500&level=${level}`), [level])
  useEffect(() => {
    if (asked.value) setLines(asked.value.lines)
  }, [asked.value])
  useEffect(() => on('logs', (l) => levels.indexOf(l.level) >= levels.indexOf(level) && setLines((all) => [...all.slice(1 - most), l]), asked.again), [level])
  const words = match.toLowerCase().split(/\s+/).filter(Boolean)
  const all = frozen ?? lines
  const shown = words.length === 0 ? all : all.filter((l) => words.every((w) => JSON.stringify(l).toLowerCase().includes(w)))
  return (
    <>
      <Title page="nav.logs" />
      <div class="bar">
        <input type="search" class="grow filter" data-filter aria-label={t('filter')} placeholder={t('filter')} value={match} onInput={(e) => setMatch(e.currentTarget.value)} />
        <label class="check">
          <span class="muted">{t('logs.level')}</span>
          <select
            value={level}
            onChange={(e) => {
              setLevel(e.currentTarget.value as typeof level)
              setFrozen(null)
            }}
          >
            {levels.map((l) => (
              <option key={l}>{l}</option>
            ))}
          </select>
        </label>
        <button type="button" aria-pressed={frozen !== null} onClick={() => setFrozen(frozen ? null : lines)}>
          <Icon name={frozen ? 'play' : 'pause'} />
          {t(frozen ? 'resume' : 'pause')}
        </button>
      </div>
      {asked.error && <Note kind="error">{asked.error}</Note>}
      {(asked.value?.lost ?? 0) > 0 && <p class="muted">{tn('logs.lost', asked.value!.lost)}</p>}
      {/* A log is read by those who ask for it: announcing every line would drown the rest. */}
      <div class="card log" role="log" aria-live="off" aria-label={t('nav.logs')} tabIndex={0} lang="en" dir="ltr">
        {shown.length === 0 && <p class="empty">{t('logs.none')}</p>}
        {shown.toReversed().map((l, i) => (
          <div key={`${l.time}${shown.length - i}`} class="line">
            <time class="muted" dateTime={l.time} title={dateTime(new Date(l.time))}>
              {clock(new Date(l.time))}
            </time>
            <span class={`tag ${tones[l.level]}`}>{l.level}</span>
            {l.record ? (
              <details class="what">
                <summary>
                  <bdi>{l.msg}</bdi> <bdi class="muted">{decision(l.record)}</bdi>
                </summary>
                <bdi class="muted">{attributes(l)}</bdi>
              </details>
            ) : (
              <span class="what">
                <bdi>{l.msg}</bdi> <bdi class="muted">{attributes(l)}</bdi>
              </span>
            )}
          </div>
        ))}
      </div>
    </>
  )
}

// decision is a record in one line, as `netpolicy log` writes it.
const decision = (d: Decision) => [`${d.rule ?? 'default'}:`, d.action, targetOf(d), d.flow.proto, d.flow.src, '>', d.flow.dst, d.name].filter(Boolean).join(' ')

function attributes(l: LogLine): string {
  return Object.entries(l)
    .filter(([k]) => !['time', 'level', 'msg'].includes(k))
    .map(([k, v]) => `${k}=${typeof v === 'string' ? v : JSON.stringify(v)}`)
    .join(' ')
}
