import './uplinks.css'
import { useMemo, useState } from 'preact/hooks'
import { get } from '../lib/api'
import { status } from '../lib/events'
import { ago, ms, number, percent, rate } from '../lib/format'
import { t } from '../lib/i18n'
import type { Range, Threshold, Uplink } from '../lib/types'
import { Chart, type Limit } from '../ui/chart'
import { Mono, Note, StateMark, Title, useAsk, useEvery } from '../ui/parts'

const spans = [5, 30, 360, 1440]

export default function UplinksPage() {
  const [minutes, setMinutes] = useState(5)
  const asked = useAsk(() => get<Range>(`metrics/range?minutes=${minutes}`), [minutes])
  useEvery(asked.again, minutes > 30 ? 30_000 : 2000)
  const s = status.value
  return (
    <>
      <Title page="nav.uplinks">
        <div class="bar" role="group" aria-label={t('span')}>
          {spans.map((n) => (
            <button key={n} type="button" aria-pressed={n === minutes} onClick={() => setMinutes(n)}>
              {n < 60 ? t('span.minutes', { n: number(n) }) : t('span.hours', { n: number(n / 60) })}
            </button>
          ))}
        </div>
      </Title>
      {asked.error && <Note kind="error">{asked.error}</Note>}
      {s?.uplinks.length === 0 && <p class="empty">{t('uplinks.none')}</p>}
      {s?.uplinks.map((u) => <Line key={u.name} uplink={u} range={asked.value} now={new Date(s.now)} />)}
    </>
  )
}

const limits = (th: Threshold | undefined): Limit[] =>
  th && th.enter > 0
    ? [
        { label: t('limit.enter'), value: th.enter, tone: 'bad' },
        { label: t('limit.exit'), value: th.exit, tone: 'warn' },
      ]
    : []

function Line({ uplink: u, range, now }: { uplink: Uplink; range: Range | null; now: Date }) {
  const { times, series } = useMemo(() => {
    const of = (name: string) => range?.series.find((x) => x.name === name && x.uplink === u.name)?.values ?? []
    const series = { rtt: of('rtt_ms'), loss: of('loss'), rx: of('rx_rate'), tx: of('tx_rate') }
    const from = range ? Date.parse(range.from) / 1000 : 0
    const n = Math.max(...Object.values(series).map((v) => v.length))
    return { times: Array.from({ length: n }, (_, i) => from + i * (range?.step_seconds ?? 1)), series }
  }, [range, u.name])
  const lines = useMemo(
    () => ({
      rtt: [{ label: 'RTT', values: series.rtt, color: 1 as const }],
      loss: [{ label: t('loss'), values: series.loss, color: 3 as const }],
      rate: [
        { label: t('down'), values: series.rx, color: 1 as const },
        { label: t('up'), values: series.tx, color: 2 as const },
      ],
    }),
    [series],
  )
  return (
    <section class="card uplink" aria-label={u.name} data-test={`uplink-${u.name}`}>
      <header>
        <h2>
          <Mono>{u.name}</Mono>
        </h2>
        <StateMark state={u.state} />
        <span class="muted">{u.since && ago(new Date(u.since), now)}</span>
        {u.primary && <span class="tag info">{t('primary')}</span>}
        {!u.up && <span class="tag bad">{t('uplink.down')}</span>}
        {u.forced && <span class="tag warn">{t('forced')}</span>}
        <span class="grow" />
        <span class="tag">
          <Mono>{u.dev}</Mono>
        </span>
        <span class="muted">{t('share', { share: percent(u.share / 100) })}</span>
      </header>
      {u.why && (
        <p class="why muted" lang="en" dir="ltr">
          {u.why}
        </p>
      )}
      <div class="charts">
        <Chart title="RTT" times={times} lines={lines.rtt} limits={limits(u.thresholds?.rtt_ms)} format={ms} floor={10} />
        <Chart title={t('loss')} times={times} lines={lines.loss} limits={limits(u.thresholds?.loss)} format={(n) => percent(n, n < 0.1 ? 1 : 0)} floor={0.02} />
        <Chart title={t('throughput')} times={times} lines={lines.rate} format={rate} floor={10_000} />
      </div>
    </section>
  )
}
