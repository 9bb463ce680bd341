import './generator.css'
import { useEffect, useRef, useState } from 'preact/hooks'
import { failed, toast } from '../lib/announce'
import { number } from '../lib/format'
import { type Key, t, tn } from '../lib/i18n'
import { Icon } from '../ui/icon'
import { CopyButton, Mono, Note, SeverityMark, Tabs } from '../ui/parts'
import { useWindow, windowOf } from '../ui/window'
import type { Change, Field, Format, Generator, Input, View, XFinding } from './core'
import type { XrayDocument } from './document'
import { Trial, type Try } from './trial'

const formats: Format[] = ['link', 'base64', 'xray', 'clash', 'singbox', 'sip008']
const debounce = 200
// longest is what a browser draws as dots at once; the time grows with the square of a line.
const longest = 10_000

const protocols = ['vless', 'vmess', 'trojan', 'ss', 'hysteria2', 'wireguard', 'socks', 'http']

// onTry is there where a daemon can try links.
export function XrayGenerator({ doc, start = '', onTry }: { doc: XrayDocument; start?: string; onTry?: Try }) {
  const [secrets, setSecrets] = useState(false)
  const [over, setOver] = useState(false)
  useEffect(() => void (start && doc.write(start)), [start])

  // What is opened or dropped comes to the profiles that are there.
  const take = async (files: Iterable<File>) => {
    for (const file of files) {
      try {
        const found = file.type.startsWith('image/') ? await (await import('../lib/qr')).read(file) : [await file.text()]
        // No text has a zero byte, and every archive or program does.
        if (!found || found[0]?.includes('\0')) toast('error', `${file.name}: ${t('xray.refused')}`)
        else if (found.length === 0) toast('error', t('xray.noCode'))
        else for (const text of found) await doc.add(text)
      } catch (err) {
        failed(err)
      }
    }
  }
  // A picture can be pasted anywhere on the page; text goes where the cursor is.
  useEffect(() => {
    const paste = (e: ClipboardEvent) => {
      const files = [...(e.clipboardData?.files ?? [])]
      if (files.length === 0) return
      e.preventDefault()
      void take(files)
    }
    addEventListener('paste', paste)
    return () => removeEventListener('paste', paste)
  }, [])
  const shown = doc.shown
  return (
    <div
      class={over ? 'xray over' : 'xray'}
      onDragOver={(e) => {
        e.preventDefault()
        setOver(true)
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(e) => {
        e.preventDefault()
        setOver(false)
        const files = [...(e.dataTransfer?.files ?? [])]
        const text = e.dataTransfer?.getData('text/plain') ?? ''
        if (files.length > 0) void take(files)
        else if (text) void doc.add(text).catch(failed)
      }}
    >
      <div class="stack">
        <Source doc={doc} secrets={secrets} onSecrets={() => setSecrets(!secrets)} onFiles={(f) => void take(f)} />
        {doc.profiles.value.length > 1 && <Profiles doc={doc} />}
        {shown?.ok && shown.link && <Code link={shown.link} secrets={secrets} onShow={() => setSecrets(true)} />}
      </div>
      <div class="stack">
        {shown ? <Form key={doc.at.value} doc={doc} view={shown} secrets={secrets} onTry={onTry} /> : <p class="card empty">{t('xray.empty')}</p>}
      </div>
    </div>
  )
}

function Source({ doc, secrets, onSecrets, onFiles }: { doc: XrayDocument; secrets: boolean; onSecrets: () => void; onFiles: (f: FileList) => void }) {
  const picked = useRef<HTMLInputElement>(null)
  const value = doc.text.value
  const losses = doc.losses.value.filter((l) => l.left || l.keys.length > 0)
  const held = doc.held.value
  const format = t(`format.${doc.format.value}` as Key)
  return (
    <section class="card" aria-label={t('xray.text')}>
      <div class="bar tools">
        <button type="button" onClick={() => picked.current?.click()}>
          <Icon name="xray" />
          {t('xray.open')}
        </button>
        <input ref={picked} type="file" hidden multiple accept="image/*,text/*,.yaml,.yml,.json,.conf" onChange={(e) => e.currentTarget.files && onFiles(e.currentTarget.files)} />
        <select aria-label={t('xray.new')} value="" onChange={(e) => void doc.generator.begin(e.currentTarget.value).then((begun) => doc.add(begun.text)).catch(failed)}>
          <option value="" disabled>
            {t('xray.new')}
          </option>
          {protocols.map((p) => (
            <option key={p} value={p}>
              {p}
            </option>
          ))}
        </select>
        <span class="grow" />
        <label class="check">
          <span class="muted">Xray</span>
          <select value={doc.core.value} aria-label={t('xray.core')} onChange={(e) => void doc.useCore(e.currentTarget.value as '26.3').catch(failed)}>
            <option>26.3</option>
            <option>26.7</option>
          </select>
        </label>
        <button type="button" aria-pressed={secrets} onClick={onSecrets}>
          <Icon name="key" />
          {t('xray.secrets')}
        </button>
      </div>
      <Tabs<Format> label={t('xray.format')} value={doc.format.value} onChange={(f) => void doc.show(f)} tabs={formats.map((f) => ({ id: f, text: t(`format.${f}` as Key) }))} />
      <div class="text">
        <textarea
          class={secrets ? 'mono' : value.length > longest ? 'mono blurred' : 'mono masked'}
          dir={value ? 'ltr' : undefined}
          rows={doc.format.value === 'link' ? 7 : 16}
          spellcheck={false}
          autocomplete="off"
          aria-label={t('xray.text')}
          placeholder={t('xray.paste')}
          value={value}
          readOnly={held}
          data-filter
          onInput={(e) => doc.type(e.currentTarget.value)}
        />
        {value && <CopyButton text={value} />}
      </div>
      {doc.error.value && <Note kind="error">{doc.error.value}</Note>}
      {doc.gone.value && (
        <Note>
          <button type="button" onClick={() => void doc.back()}>
            <Icon name="undo" />
            {t('xray.undo')}: {tn('profiles', doc.gone.value.profiles.length - doc.profiles.value.length)}
          </button>
        </Note>
      )}
      {(held || losses.length > 0) && (
        <Note kind="warning">
          <p>
            {held && t('xray.held')} {losses.length > 0 && t(held ? 'xray.anew' : 'xray.losses', { format })}
          </p>
          {losses.map((l, i) => (
            <p key={i} lang="en" dir="ltr">
              <Mono>{l.keys.join(', ')}</Mono> {l.why}
            </p>
          ))}
          {held && (
            <div class="bar">
              <button type="button" onClick={() => void doc.undo()}>
                <Icon name="undo" />
                {t('xray.undo')}
              </button>
              <button type="button" class="primary" onClick={() => void doc.accept()}>
                {t('xray.write')}
              </button>
            </div>
          )}
        </Note>
      )}
      {doc.findings.value
        .filter((f) => f.severity === 'error')
        .map((f) => (
          <Note key={f.message} kind="error">
            <span lang="en">{f.message}</span>
          </Note>
        ))}
    </section>
  )
}

const rowHeight = 39 // as in generator.css

// Profiles draws all of a list that is not long, and of a longer one those around what is in view.
function Profiles({ doc }: { doc: XrayDocument }) {
  const list = doc.profiles.value
  const { ref, top, height } = useWindow<HTMLUListElement>()
  const { first, end } = windowOf(top, height, rowHeight, list.length, 100)
  return (
    <section class="card" aria-label={t('xray.profiles')}>
      <header>
        <h2>{tn('profiles', list.length)}</h2>
      </header>
      <ul class="profiles" ref={ref}>
        {list.slice(first, end).map((p, n) => {
          const i = first + n
          const worst = p.findings[0]?.severity
          return (
            <li key={i} style={{ marginBlock: `${n ? 0 : first * rowHeight}px ${i + 1 < end ? 0 : (list.length - end) * rowHeight}px` }}>
              <button type="button" class="plain" aria-current={i === doc.at.value} onClick={() => doc.choose(i)}>
                <span class="num muted">{number(p.line!)}</span>
                <bdi class="cut grow" title={p.state?.name}>
                  {p.ok ? p.state?.name || p.state?.host : t('xray.refused')}
                </bdi>
                {p.ok && <span class="tag">{[p.protocol, p.transport, p.security].filter(Boolean).join(' · ')}</span>}
                {worst && worst !== 'hint' && <SeverityMark severity={worst} />}
              </button>
            </li>
          )
        })}
      </ul>
    </section>
  )
}

function Code({ link, secrets, onShow }: { link: string; secrets: boolean; onShow: () => void }) {
  const [code, setCode] = useState<{ size: number; d: string } | null>(null)
  const [error, setError] = useState('')
  useEffect(() => {
    let gone = false
    setError('')
    import('../lib/qr').then(
      (m) => {
        if (gone) return
        try {
          setCode(m.path(link))
        } catch {
          setCode(null)
          setError(t('xray.tooLong'))
        }
      },
      (err) => setError(String(err)),
    )
    return () => {
      gone = true
    }
  }, [link])
  return (
    <section class="card" aria-label={t('xray.code')}>
      <header>
        <h2 class="grow">{t('xray.code')}</h2>
        <CopyButton text={link} label={t('xray.copyLink')} />
      </header>
      <div class="body code">
        {error && <Note kind="warning">{error}</Note>}
        {code && !secrets && (
          <button type="button" onClick={onShow}>
            <Icon name="key" />
            {t('xray.showCode')}
          </button>
        )}
        {code && secrets && (
          <svg viewBox={`0 0 ${code.size} ${code.size}`} role="img" aria-label={t('xray.code')} shape-rendering="crispEdges">
            <rect width={code.size} height={code.size} fill="#fff" />
            <path d={code.d} fill="#000" />
          </svg>
        )}
      </div>
    </section>
  )
}

const groups = ['server', 'security', 'transport'] as const

function Form({ doc, view, secrets, onTry }: { doc: XrayDocument; view: View; secrets: boolean; onTry?: Try }) {
  const [inputs, setInputs] = useState<Input[]>([])
  useEffect(() => {
    if (!view.ok) return setInputs([])
    let gone = false
    doc.generator.fields(view).then((f) => !gone && setInputs(f), failed)
    return () => {
      gone = true
    }
  }, [view.protocol, view.transport, view.security, view.ok])
  const losses = view.losses.filter((l) => l.keys.length > 0 || l.left)
  const described = new Set(inputs.map((i) => i.key))
  const other = view.fields.filter((f) => !described.has(f.key) && f.key !== '#scheme')
  const change = (c: Change) => void doc.change([c])
  return (
    <>
      {view.findings.length > 0 && (
        <section class="card" aria-label={t('xray.findings')}>
          <ul class="findings" data-test="xray-findings">
            {view.findings.map((f) => (
              <Finding key={(f.key ?? '') + f.message} finding={f} onFix={f.fix ? () => change(f.fix!) : undefined} />
            ))}
          </ul>
        </section>
      )}
      {view.ok && (
        <section class="card" aria-label={t('xray.form')} data-test="xray-form">
          <header>
            <h2 class="grow">
              <bdi class="cut" title={view.state?.name}>
                {view.state?.name || view.state?.host}
              </bdi>
            </h2>
            <span class="tag info">{view.protocol}</span>
            <button type="button" class="plain" onClick={() => void doc.remove()}>
              {t('xray.remove')}
            </button>
          </header>
          <div class="body stack">
            {groups.map((g) => {
              const list = inputs.filter((i) => i.group === g)
              return (
                list.length > 0 && (
                  <fieldset key={g} class="plain inputs">
                    <legend>{t(`group.${g}`)}</legend>
                    {list.map((i) => (
                      <Entry key={i.key} input={i} field={view.fields.find((f) => f.key === i.key)} refused={doc.refused.value[i.key]} secrets={secrets} onChange={change} />
                    ))}
                  </fieldset>
                )
              )
            })}
            {other.length > 0 && (
              <fieldset class="plain inputs">
                <legend>{t('group.more')}</legend>
                {other.map((f) => (
                  <Entry
                    key={f.key}
                    input={{ key: f.key, kind: f.secret ? 'secret' : 'text', group: 'server', help: '' }}
                    field={f}
                    refused={doc.refused.value[f.key]}
                    secrets={secrets}
                    onChange={change}
                    onRemove={() => change({ key: f.key, value: null })}
                  />
                ))}
              </fieldset>
            )}
            <Pin generator={doc.generator} onPin={(pin) => change({ key: view.protocol === 'hysteria2' ? 'pinSHA256' : 'pcs', value: pin })} host={`${view.state?.host}:${view.state?.port}`} protected={view.security === 'tls'} />
            {onTry && view.link && <Trial link={view.link} onTry={onTry} />}
          </div>
        </section>
      )}
      {losses.length > 0 && (
        <section class="card" aria-label={t('xray.lossReport')}>
          <header>
            <h2>{t('xray.lossReport')}</h2>
          </header>
          <table data-test="losses">
            <tbody>
              {losses.map((l) => (
                <tr key={l.format}>
                  <th scope="row">{t(`format.${l.format}` as Key)}</th>
                  <td>
                    {l.left && <span class="tag bad">{t('xray.left')}</span>} <Mono>{l.keys.join(', ')}</Mono>
                    {l.why && (
                      <p class="muted" lang="en" dir="ltr">
                        {l.why}
                      </p>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </>
  )
}

function Finding({ finding: f, onFix }: { finding: XFinding; onFix?: () => void }) {
  return (
    <li>
      <div class="bar">
        <SeverityMark severity={f.severity} />
        {f.key && <Mono>{f.key}</Mono>}
        <span class="grow" />
        {onFix && f.fix && (
          <button type="button" onClick={onFix}>
            <Icon name="check" />
            {f.fix.value === null ? t('xray.fixRemove', { key: f.fix.key }) : t('xray.fixSet', { key: f.fix.key, value: f.fix.value })}
          </button>
        )}
      </div>
      <p lang="en" dir="ltr">
        {f.message}
      </p>
      {(f.help ?? f.fix?.note) && (
        <p lang="en" dir="ltr" class="muted">
          {[f.help, f.fix?.note].filter(Boolean).join('. ')}
        </p>
      )}
    </li>
  )
}

interface EntryProps {
  input: Input
  field?: Field
  refused?: { value: string; why: string }
  secrets: boolean
  onChange: (c: Change) => void
  onRemove?: () => void
}

const names: Record<string, Key> = { '#name': 'key.name', '#host': 'key.host', '#port': 'key.port', '#user': 'key.user', '#password': 'key.password', '#scheme': 'key.scheme' }

// Entry is one key: what it is, where its value comes from, and the value. An empty
// one takes the key away, so that its default holds.
function Entry({ input: i, field, refused, secrets, onChange, onRemove }: EntryProps) {
  const stated = field && field.origin !== 'default'
  const value = refused?.value ?? field?.value ?? ''
  const id = `x-${i.key}`
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined)
  const [typed, setTyped] = useState<string | null>(null)
  // What was typed shows until another value has come; not when the entry is drawn first.
  const last = useRef(value)
  useEffect(() => {
    if (last.current !== value) setTyped(null)
    last.current = value
  }, [value])
  const set = (v: string, wait: boolean) => {
    setTyped(v)
    clearTimeout(timer.current)
    const give = () => onChange({ key: i.key, value: v === '' && !i.key.startsWith('#') ? null : v })
    if (wait) timer.current = setTimeout(give, debounce)
    else give()
  }
  const shown = typed ?? value
  const about = { id, 'aria-describedby': `${id}-help`, 'aria-invalid': refused ? true : undefined, dir: i.key === '#name' ? ('auto' as const) : ('ltr' as const) }
  const choices = i.choices && !i.choices.includes(shown) ? [shown, ...i.choices] : i.choices
  return (
    <div class={stated ? 'entry' : 'entry unset'}>
      <div class="bar label">
        <label for={id}>{names[i.key] ? t(names[i.key]!) : <Mono>{i.key}</Mono>}</label>
        {i.required && <span class="bad" aria-hidden="true">*</span>}
        {field && <span class={`tag ${field.origin === 'migrated' ? 'warn' : field.origin === 'link' ? 'info' : ''}`}>{field.origin === 'migrated' && field.was ? t('origin.was', { key: field.was }) : t(`origin.${field.origin}`)}</span>}
        {field && !field.known && <span class="tag warn">{t('xray.unknown')}</span>}
        {onRemove && (
          <button type="button" class="icon plain" aria-label={t('xray.removeKey', { key: i.key })} onClick={onRemove}>
            <Icon name="close" />
          </button>
        )}
      </div>
      {i.kind === 'choice' ? (
        <select {...about} value={shown} onChange={(e) => set(e.currentTarget.value, false)}>
          {choices!.map((c) => (
            <option key={c} value={c}>
              {c || '–'}
            </option>
          ))}
        </select>
      ) : i.kind === 'toggle' ? (
        <input {...about} type="checkbox" checked={shown === '1'} onChange={(e) => set(e.currentTarget.checked ? '1' : '0', false)} />
      ) : i.kind === 'json' ? (
        <textarea {...about} class="mono" rows={shown ? 4 : 1} spellcheck={false} value={shown} onInput={(e) => set(e.currentTarget.value, true)} />
      ) : (
        <input
          {...about}
          class={i.key === '#name' ? '' : 'mono'}
          type={(i.kind === 'secret' && !secrets ? 'password' : 'text') as 'text'}
          inputMode={i.kind === 'number' ? 'numeric' : undefined}
          autocomplete="off"
          spellcheck={false}
          required={i.required}
          value={shown}
          placeholder={i.default}
          onInput={(e) => set(e.currentTarget.value, true)}
          onChange={(e) => set(e.currentTarget.value, false)}
        />
      )}
      <p id={`${id}-help`} class="help" lang="en" dir="ltr">
        {refused ? <span class="bad">{refused.why}</span> : <span class="muted">{i.help}</span>}
      </p>
    </div>
  )
}

// Pin makes the key that trusts one certificate, of the certificate itself: nothing is fetched.
function Pin({ generator, onPin, host, protected: on }: { generator: Generator; onPin: (pin: string) => void; host: string; protected: boolean }) {
  const [error, setError] = useState('')
  if (!on) return null
  const take = async (text: string) => {
    setError('')
    if (!text.trim()) return
    try {
      onPin((await generator.pin(text)).pin)
    } catch {
      setError(t('pin.bad'))
    }
  }
  return (
    <details>
      <summary>{t('pin')}</summary>
      <div class="stack tight">
        <p class="muted">{t('pin.how')}</p>
        <pre class="block" tabIndex={0}>{`openssl s_client -connect ${host} </dev/null | openssl x509`}</pre>
        <textarea class="mono" rows={3} dir="ltr" spellcheck={false} aria-label={t('pin.certificate')} placeholder="-----BEGIN CERTIFICATE-----" onInput={(e) => void take(e.currentTarget.value)} />
        {error && <Note kind="error">{error}</Note>}
      </div>
    </details>
  )
}
