import { useEffect, useRef, useState } from 'preact/hooks'
import { announce } from '../lib/announce'
import { post } from '../lib/api'
import { type Key, t } from '../lib/i18n'
import { keep, place } from '../lib/router'
import type { Explanation, State } from '../lib/types'
import { Mono, Note, Title } from '../ui/parts'
import { Near, Verdict } from './why'

const example = 'tcp 10.0.0.5:5000 > 203.0.113.9:443 sni=www.example.com'
const states: State[] = ['', 'NORMAL', 'DEGRADED', 'FAILOVER', 'RECOVERY']

export default function ExplainPage() {
  const [flow, setFlow] = useState('')
  const [state, setState] = useState<State>('')
  const [got, setGot] = useState<Explanation | null>(null)
  const [error, setError] = useState('')
  const turn = useRef(0)

  const ask = async (text: string) => {
    const mine = ++turn.current
    const last = () => mine === turn.current
    try {
      const e = await post<Explanation>('explain', { flow: text, state })
      if (!last()) return
      setGot(e)
      setError('')
      announce(e.why)
    } catch (err) {
      if (!last()) return
      setGot(null)
      setError(err instanceof Error ? err.message : String(err))
    }
  }
  // What the address says is asked, and what was typed is in the address.
  useEffect(() => {
    const text = place.value.params.get('flow') ?? ''
    setFlow(text)
    if (text) void ask(text)
  }, [place.value])
  useEffect(() => {
    if (flow) void ask(flow)
  }, [state])
  useEffect(() => {
    const timer = setTimeout(() => keep(flow ? { flow } : {}), 300)
    return () => clearTimeout(timer)
  }, [flow])

  return (
    <>
      <Title page="nav.explain" />
      <form
        class="card"
        onSubmit={(e) => {
          e.preventDefault()
          void ask(flow)
        }}
      >
        <div class="body stack">
          <label class="field">
            <span>{t('explain.flow')}</span>
            <textarea class="mono" dir="ltr" rows={flow.length > 120 ? 4 : 2} data-filter spellcheck={false} value={flow} placeholder={example} onInput={(e) => setFlow(e.currentTarget.value)} />
          </label>
          <div class="bar">
            <label class="check">
              <span class="muted">{t('explain.state')}</span>
              <select value={state} onChange={(e) => setState(e.currentTarget.value as State)}>
                {states.map((s) => (
                  <option key={s} value={s}>
                    {s ? t(`state.${s}` as Key) : t('explain.now')}
                  </option>
                ))}
              </select>
            </label>
            <span class="grow" />
            <button type="button" onClick={() => setFlow(example)}>
              {t('example')}
            </button>
            <button type="submit" class="primary" disabled={!flow.trim()}>
              {t('explain.ask')}
            </button>
          </div>
        </div>
      </form>
      {error && <Note kind="error">{error}</Note>}
      {got && (
        <div class="card">
          <div class="body stack">
            <Verdict answer={got} />
            <dl class="facts">
              <dt>{t('explain.runnerUp')}</dt>
              <dd>{got.runner_up ? <Mono>{got.runner_up}</Mono> : t('default')}</dd>
              <dt>{t('explain.order')}</dt>
              <dd>
                <Mono>{order(got.specificity.rule)}</Mono>
                {got.specificity.runner_up != null && (
                  <>
                    {' › '}
                    <Mono>{order(got.specificity.runner_up)}</Mono>
                  </>
                )}
                {got.specificity.rule != null && <span class="muted"> {t('explain.parts')}</span>}
              </dd>
            </dl>
            <Near near={got.near} level={2} />
          </div>
        </div>
      )}
    </>
  )
}

const order = (tuple: unknown) => (Array.isArray(tuple) ? `(${tuple.join(', ')})` : '–')
