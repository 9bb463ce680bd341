import type { ComponentChildren } from 'preact'
import { post } from '../lib/api'
import type { Row } from '../lib/connections'
import { bytes, duration, ms, number, rate } from '../lib/format'
import { type Key, t } from '../lib/i18n'
import { ends } from '../lib/rule'
import type { Explanation } from '../lib/types'
import { Close, Mono, Note, useAsk } from '../ui/parts'
import { Near, Verdict } from './why'

// Details is one connection: what was decided, why, and what nearly decided instead.
export function Details({ row: r, now, onClose, actions }: { row: Row; now: number; onClose: () => void; actions: ComponentChildren }) {
  const asked = useAsk(() => post<Explanation>('explain', { flow: r.flow }), [r.id, r.decision.rule, JSON.stringify(r.flow)])
  return (
    <section class="card details" aria-label={t('details')} onKeyDown={(e) => e.key === 'Escape' && onClose()}>
      <header>
        <h2 class="grow">
          <Mono cut>{r.name || String(r.flow.dst)}</Mono>
        </h2>
        <Close onClick={onClose} />
      </header>
      <div class="body">
        <Verdict answer={r.decision} />
        {r.killed && <Note>{t('connections.killed')}</Note>}
        {r.pinned && <Note>{t('pinned.why', { route: r.pinned })}</Note>}
        <div class="bar">{actions}</div>
        <dl class="facts">
          <dt>{t('fact.flow')}</dt>
          <dd>
            <Mono>
              {String(r.flow.proto)} {ends(r.flow)}
            </Mono>
          </dd>
          {r.nameFrom && (
            <>
              <dt>{t('fact.name')}</dt>
              <dd>
                <Mono>{r.name}</Mono> <span class="tag">{t(`from.${r.nameFrom}` as Key)}</span>
              </dd>
            </>
          )}
          {r.process && (
            <>
              <dt>{t('fact.process')}</dt>
              <dd>
                <bdi>{r.process}</bdi>
              </dd>
            </>
          )}
          <dt>{t('col.uplink')}</dt>
          <dd>{r.uplink ? <Mono>{r.uplink}</Mono> : '–'}</dd>
          <dt>{t('col.rtt')}</dt>
          <dd>{r.rtt >= 0 ? ms(r.rtt) : t('unknown')}</dd>
          <dt>{t('fact.up')}</dt>
          <dd>
            {bytes(r.up)} ({rate(r.upRate)})
          </dd>
          <dt>{t('fact.down')}</dt>
          <dd>
            {bytes(r.down)} ({rate(r.downRate)})
          </dd>
          <dt>{t('fact.retransmits')}</dt>
          <dd>{number(r.retransmits)}</dd>
          <dt>{t('col.age')}</dt>
          <dd>{r.began ? duration(Math.max(0, now - r.began) / 1000) : t('fact.before')}</dd>
        </dl>
        {asked.error && <Note kind="error">{asked.error}</Note>}
        {asked.value && <Near near={asked.value.near} />}
      </div>
    </section>
  )
}
