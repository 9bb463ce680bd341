import { useState } from 'preact/hooks'
import { failed } from '../lib/announce'
import { ApiError, get, mayChange, post } from '../lib/api'
import { bytes, dateTime, ms } from '../lib/format'
import { type Key, t, tn } from '../lib/i18n'
import { Mono, Note, useAsk, useEvery } from '../ui/parts'

interface Proxy { name: string; address: string; used: boolean; chosen?: boolean; alive: 'true' | 'false' | 'unknown'; delay_ms?: number }
interface Xray {
  state: 'stopped' | 'running' | 'waiting' | 'degraded' | 'failed'
  since?: string; version?: string; pid?: number; adopted?: boolean; stopped_by_user?: boolean; restarts: number; reason?: string
  next?: string; memory?: number; problems?: string[]
  routes: { route: string; proxy: string; listen?: string; proxies: Proxy[] }[]
}

const tones: Record<Xray['state'], string> = { running: 'ok', waiting: 'warn', degraded: 'warn', stopped: '', failed: 'bad' }

// orNone asks for what a daemon need not have, by what its policy says: null is none.
export async function orNone<T>(path: string): Promise<T | null> {
  try {
    return await get<T>(path)
  } catch (err) {
    if (err instanceof ApiError && [404, 405, 409].includes(err.status)) return null
    throw err
  }
}

// Manager is the Xray that the daemon runs for the policy's routes: what it does, its
// proxies, and its last words.
export function Manager() {
  const asked = useAsk(() => orNone<Xray>('xray'), [])
  useEvery(asked.again, 3000)
  const [open, setOpen] = useState(false)
  const log = useAsk(async () => (open ? (await get<{ lines: string[] }>('xray/log')).lines : null), [open])
  useEvery(() => open && log.again(), 3000)
  const x = asked.value
  if (asked.error) return <Note kind="error">{asked.error}</Note>
  if (!x) return null
  const does = (what: string) => void post('xray', { do: what }).then(asked.again, failed)
  return (
    <section class="card" aria-label={t('manager')} data-test="manager">
      <header>
        <h2>{t('manager')}</h2>
        <span class={`tag ${tones[x.state] ?? ''}`}>{t(`manager.${x.state}` as Key)}</span>
        {x.version && <Mono>{x.version}</Mono>}
        <span class="muted">
          {[x.pid && `PID ${x.pid}`, x.since && dateTime(new Date(x.since)), x.next && t('manager.next', { when: dateTime(new Date(x.next)) }), x.memory && bytes(x.memory), x.restarts > 0 && tn('manager.restarts', x.restarts)].filter(Boolean).join(' · ')}
        </span>
        <span class="grow" />
        <button type="button" disabled={!mayChange()} onClick={() => does(x.state === 'stopped' ? 'start' : 'restart')}>
          {t(x.state === 'stopped' ? 'manager.start' : 'manager.restart')}
        </button>
        <button type="button" disabled={!mayChange() || x.state === 'stopped'} onClick={() => does('stop')}>
          {t('manager.stop')}
        </button>
      </header>
      {(x.reason || (x.problems?.length ?? 0) > 0) && (
        <div class="body stack tight">
          {[x.reason, ...(x.problems ?? [])].filter(Boolean).map((p) => (
            <Note key={p} kind="warning">
              <span lang="en" dir="ltr">
                {p}
              </span>
            </Note>
          ))}
        </div>
      )}
      <div class="scroll" role="group" aria-label={t('manager.proxy')} tabIndex={0}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t('manager.route')}</th>
              <th scope="col">{t('manager.proxy')}</th>
              <th scope="col">{t('key.host')}</th>
              <th scope="col" class="num">
                {t('col.rtt')}
              </th>
            </tr>
          </thead>
          <tbody>
            {x.routes.flatMap((r) =>
              r.proxies.map((p) => (
                <tr key={`${r.route} ${p.name}`}>
                  <td>
                    <Mono>{r.route}</Mono>
                  </td>
                  <td>
                    <bdi>{p.name}</bdi> {p.used && <span class="tag ok">{t('manager.used')}</span>} {p.chosen && <span class="tag">{t('manager.chosen')}</span>} {p.alive === 'false' && <span class="tag bad">{t('uplink.down')}</span>}
                  </td>
                  <td>
                    <Mono>{p.address}</Mono>
                  </td>
                  <td class="num">{p.delay_ms ? ms(p.delay_ms) : '–'}</td>
                </tr>
              )),
            )}
          </tbody>
        </table>
      </div>
      <details onToggle={(e) => setOpen(e.currentTarget.open)}>
        <summary>{t('nav.logs')}</summary>
        {log.error && <Note kind="error">{log.error}</Note>}
        {log.value && (
          <pre class="block" tabIndex={0} lang="en">
            {log.value.join('\n')}
          </pre>
        )}
      </details>
    </section>
  )
}
