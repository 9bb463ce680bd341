import './connections.css'
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks'
import { announce, failed, toast } from '../lib/announce'
import { ApiError, del, mayChange } from '../lib/api'
import { Connections, type Row, select, type Sort } from '../lib/connections'
import { bytes, duration, ms, number, rate } from '../lib/format'
import { type Key, t, tn } from '../lib/i18n'
import { keep, link, place } from '../lib/router'
import { ends, split } from '../lib/rule'
import { Icon } from '../ui/icon'
import { Mono, Title, useEvery } from '../ui/parts'
import { shift, useWindow, windowOf } from '../ui/window'
import { Details } from './details'
import { MakeRule } from './makerule'

const columns: { sort: Sort; key: Key; numeric?: boolean }[] = [
  { sort: 'name', key: 'col.name' },
  { sort: 'rule', key: 'col.rule' },
  { sort: 'uplink', key: 'col.uplink' },
  { sort: 'rtt', key: 'col.rtt', numeric: true },
  { sort: 'bytes', key: 'col.bytes', numeric: true },
  { sort: 'rate', key: 'col.rate', numeric: true },
  { sort: 'age', key: 'col.age', numeric: true },
]
const rowHeight = 34
const redraw = 250

export default function ConnectionsPage() {
  const model = useMemo(() => new Connections(), [])
  const given = place.value.params.get('match') ?? ''
  const [match, setMatch] = useState(given)
  const [order, setOrder] = useState<{ sort: Sort; reverse: boolean }>({ sort: 'age', reverse: false })
  const [frozen, setFrozen] = useState<Row[] | null>(null) // what a pause holds
  const [list, setList] = useState<Row[]>([])
  const [chosen, setChosen] = useState<Row | null>(null)
  const [open, setOpen] = useState(false)
  const [rule, setRule] = useState<Row | null>(null)

  useEffect(() => {
    // That the daemon is silent is told above, and that it ended the session on the next page.
    model.start((err) => (err instanceof ApiError && [0, 401].includes(err.status)) || failed(err))
    return () => model.stop()
  }, [])
  // The rows are ordered anew a few times a second at most, whatever comes in.
  const draw = () => {
    model.changed = false
    setList(select(frozen ?? model.rows.values(), match, order.sort, order.reverse))
  }
  useEffect(draw, [match, order, frozen])
  useEvery(() => {
    if (!frozen && model.changed) draw()
  }, redraw)
  const pause = () => setFrozen(frozen ? null : [...model.rows.values()])
  useEffect(() => setMatch(given), [given])
  useEffect(() => {
    const timer = setTimeout(() => keep(match ? { match } : {}), 300)
    return () => clearTimeout(timer)
  }, [match])
  // Details have the focus when they open, and the table when they close.
  const flows = useRef<HTMLDivElement>(null)
  const was = useRef(open)
  useEffect(() => {
    if (was.current !== open) flows.current?.querySelector<HTMLElement>(open ? '.details button' : '.table')?.focus({ preventScroll: true })
    was.current = open
  }, [open])
  useEffect(() => {
    const timer = setTimeout(() => match && announce(tn('connections.matched', list.length)), 800)
    return () => clearTimeout(timer)
  }, [match])

  const kill = async (r: Row) => {
    try {
      await del(`connections/${encodeURIComponent(r.id)}`)
      r.killed = true
      draw()
      toast('ok', t('connections.killed'))
    } catch (err) {
      failed(err)
    }
  }
  const move = (by: number) => {
    if (list.length === 0) return
    const at = chosen ? list.findIndex((r) => r.id === chosen.id) : -1
    setChosen(list[Math.max(0, Math.min(list.length - 1, at + by))]!)
  }
  return (
    <>
      <Title page="nav.connections">
        <span class="muted num" data-test="count">
          {!model.listed ? '…' : match ? t('connections.of', { matched: number(list.length), total: tn('connections', model.total) }) : tn('connections', model.total)}
        </span>
      </Title>
      <div class="bar">
        <input
          type="search"
          class="grow filter"
          data-filter
          aria-label={t('filter')}
          placeholder={t('connections.filter')}
          value={match}
          onInput={(e) => setMatch(e.currentTarget.value)}
        />
        <label class="check sort">
          <span class="muted">{t('sort')}</span>
          <select value={order.sort} onChange={(e) => setOrder({ sort: e.currentTarget.value as Sort, reverse: false })}>
            {columns.map((c) => (
              <option key={c.sort} value={c.sort}>
                {t(c.key)}
              </option>
            ))}
          </select>
        </label>
        <button type="button" class="icon sort" aria-label={t('sort.reverse')} title={t('sort.reverse')} aria-pressed={order.reverse} onClick={() => setOrder({ ...order, reverse: !order.reverse })}>
          {order.reverse ? '↑' : '↓'}
        </button>
        <button type="button" aria-pressed={frozen !== null} onClick={pause}>
          <Icon name={frozen ? 'play' : 'pause'} />
          {t(frozen ? 'resume' : 'pause')}
        </button>
      </div>
      <div ref={flows} class={open && chosen ? 'flows with-details' : 'flows'}>
        <Table
          list={list}
          listed={model.listed}
          now={model.now()}
          match={match}
          order={order}
          onOrder={(sort) => setOrder({ sort, reverse: order.sort === sort && !order.reverse })}
          chosen={chosen?.id ?? ''}
          onChoose={(r) => {
            setChosen(r)
            setOpen(true)
          }}
          onKey={(e, pageRows) => {
            const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: pageRows, PageUp: -pageRows, Home: -list.length, End: list.length }
            if (e.key in steps) move(steps[e.key]!)
            else if (e.key === 'Enter' && chosen) setOpen(true)
            else if (e.key === ' ') pause()
            else if (e.key === 'Escape') setOpen(false)
            else return
            e.preventDefault()
          }}
        />
        {open && chosen && (
          <Details
            key={chosen.id}
            row={chosen}
            now={model.now()}
            onClose={() => setOpen(false)}
            actions={
              <>
                <button type="button" class="primary" disabled={!mayChange()} onClick={() => setRule(chosen)}>
                  <Icon name="plus" />
                  {t('rule.make')}
                </button>
                <a class="button" href={link('explain', { id: chosen.id, flow: JSON.stringify(chosen.flow) })}>
                  <Icon name="explain" />
                  {t('nav.explain')}
                </a>
                <button type="button" class="danger" disabled={!mayChange() || chosen.killed || chosen.ended > 0} onClick={() => void kill(chosen)}>
                  <Icon name="kill" />
                  {t('connections.kill')}
                </button>
              </>
            }
          />
        )}
      </div>
      {rule && <MakeRule row={rule} onClose={() => setRule(null)} />}
    </>
  )
}

interface TableProps {
  list: Row[]
  listed: boolean
  now: number
  match: string
  order: { sort: Sort; reverse: boolean }
  onOrder: (s: Sort) => void
  chosen: string
  onChoose: (r: Row) => void
  onKey: (e: KeyboardEvent, pageRows: number) => void
}

// Table draws the rows in view. To a reader of screens it is a grid of all of them.
function Table({ list, listed, now, match, order, onOrder, chosen, onChoose, onKey }: TableProps) {
  const { ref, top, height } = useWindow<HTMLDivElement>()
  const { first, end } = windowOf(top, height, rowHeight, list.length)
  // What is looked at stays where it is, whatever comes and goes above it.
  const held = useRef({ list, match, order })
  useLayoutEffect(() => {
    const e = ref.current
    const was = held.current
    held.current = { list, match, order }
    if (!e || was.match !== match || was.order !== order) return
    const from = Math.max(top, e.scrollTop) // a list that got shorter has moved it already
    const view = windowOf(from, height, rowHeight, was.list.length, 0)
    const by = from && shift(was.list, list, view.first, view.end)
    if (by) e.scrollTop = from + by * rowHeight
  }, [list])
  const at = list.findIndex((r) => r.id === chosen)
  // The row that the keys have chosen is scrolled into view, below the head.
  useEffect(() => {
    const e = ref.current
    if (!e || at < 0 || document.activeElement !== e) return
    if (at * rowHeight < e.scrollTop) e.scrollTop = at * rowHeight
    else if ((at + 2) * rowHeight > e.scrollTop + e.clientHeight) e.scrollTop = (at + 2) * rowHeight - e.clientHeight
  }, [chosen])
  return (
    <div
      ref={ref}
      class="card table"
      role="grid"
      tabIndex={0}
      aria-label={t('nav.connections')}
      aria-rowcount={list.length + 1}
      aria-colcount={columns.length}
      aria-activedescendant={at >= first && at < end ? `row-${chosen}` : undefined}
      onKeyDown={(e) => e.target === e.currentTarget && onKey(e, Math.max(1, Math.floor(height / rowHeight) - 2))}
    >
      <div class="tr head" role="row" aria-rowindex={1}>
        {columns.map((c) => (
          <div key={c.sort} role="columnheader" class={`${c.numeric ? 'num' : ''} ${order.sort === c.sort ? 'sorted' : ''}`} aria-sort={order.sort === c.sort ? (order.reverse ? 'ascending' : 'descending') : 'none'}>
            <button type="button" class="plain" onClick={() => onOrder(c.sort)}>
              {t(c.key)}
              {order.sort === c.sort && <span aria-hidden="true">{order.reverse ? '↑' : '↓'}</span>}
            </button>
          </div>
        ))}
      </div>
      <div class="rows" role="rowgroup" style={{ blockSize: `${list.length * rowHeight}px` }}>
        {list.slice(first, end).map((r, i) => (
          <TableRow key={r.id} row={r} index={first + i} now={now} sort={order.sort} chosen={r.id === chosen} onChoose={onChoose} />
        ))}
      </div>
      {list.length === 0 && <p class="empty">{listed ? t('connections.none') : '…'}</p>}
    </div>
  )
}

function TableRow({ row: r, index, now, sort, chosen, onChoose }: { row: Row; index: number; now: number; sort: Sort; chosen: boolean; onChoose: (r: Row) => void }) {
  const blocked = r.killed || r.decision.action.startsWith('block')
  const [, port] = split(r.flow.dst)
  const is = (column: Sort) => (column === sort ? 'sorted' : '')
  return (
    <div
      id={`row-${r.id}`}
      class={`tr ${chosen ? 'chosen' : ''} ${r.ended ? 'ended' : ''}`}
      role="row"
      aria-rowindex={index + 2}
      aria-selected={chosen}
      style={{ transform: `translateY(${index * rowHeight}px)` }}
      onClick={() => onChoose(r)}
    >
      <div role="gridcell" class="name">
        <Mono cut title={ends(r.flow)}>
          {r.name || String(r.flow.dst)}
        </Mono>
        <span class="tag proto">
          {String(r.flow.proto)}
          {r.name && port ? `/${port}` : ''}
        </span>
        {r.nameFrom && <span class="tag from">{t(`from.${r.nameFrom}` as Key)}</span>}
        {r.process && (
          <span class="muted cut process" title={r.process}>
            <bdi>{r.process}</bdi>
          </span>
        )}
      </div>
      <div role="gridcell" class="what">
        {blocked && (
          <span class="state bad">
            <Icon name="kill" />
            <span class="sr">{t('blocked')}</span>
          </span>
        )}
        {r.decision.rule ? <Mono cut>{r.decision.rule}</Mono> : <span class="muted cut" title={t('default')}>{t('default')}</span>}
      </div>
      <div role="gridcell" class={`what ${is('uplink')}`}>
        {r.uplink ? <Mono cut>{r.uplink}</Mono> : <span class="muted">–</span>}
        {r.pinned && (
          <span class="state muted" title={t('pinned')}>
            <Icon name="pin" />
            <span class="sr">{t('pinned')}</span>
          </span>
        )}
      </div>
      <div role="gridcell" class={`num ${is('rtt')}`}>{r.rtt >= 0 ? ms(r.rtt) : <span class="muted">–</span>}</div>
      <div role="gridcell" class={`num ${is('bytes')}`}>{r.up + r.down > 0 ? bytes(r.up + r.down) : <span class="muted">–</span>}</div>
      <div role="gridcell" class={`num ${is('rate')}`}>{r.upRate + r.downRate > 0 ? rate(r.upRate + r.downRate) : <span class="muted">–</span>}</div>
      <div role="gridcell" class="num muted cut" title={r.ended ? t('ended') : undefined}>{r.ended ? t('ended') : r.began ? duration(Math.max(0, now - r.began) / 1000) : '–'}</div>
    </div>
  )
}
