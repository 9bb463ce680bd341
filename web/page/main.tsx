// The generator as a page of its own: it needs no server but one that serves files,
// and sends nothing anywhere. The core is xray/generator as WebAssembly.
import '../src/style.css'
import './page.css'
import { render } from 'preact'
import { useState } from 'preact/hooks'
import { dismiss, failed, toasts } from '../src/lib/announce'
import { type Language, language, languages, startLanguage, t, useLanguage } from '../src/lib/i18n'
import { setTheme, startTheme, type Theme, theme } from '../src/lib/theme'
import { showHidden } from '../src/lib/visible'
import { Icon } from '../src/ui/icon'
import { Note } from '../src/ui/parts'
import { type Call, Generator } from '../src/xray/core'
import { XrayDocument } from '../src/xray/document'
import { XrayGenerator } from '../src/xray/generator'
import { startOf } from './start'
import { load } from './wasm'

function Page({ call }: { call: Call }) {
  // A link behind # comes from a bookmark or another page; it never goes to a server.
  const [start] = useState(() => startOf(location.hash))
  const [doc] = useState(() => new XrayDocument(new Generator(call)))
  return (
    <>
      <header class="strip">
        <h1>{t('page.title')}</h1>
        <span class="muted">{t('page.offline')}</span>
        <span class="live bar">
          <select aria-label={t('language')} value={language.value} onChange={(e) => void useLanguage(e.currentTarget.value as Language, true).catch(failed)}>
            {Object.entries(languages).map(([id, l]) => (
              <option key={id} value={id} lang={id}>
                {l.name}
              </option>
            ))}
          </select>
          <select aria-label={t('theme')} value={theme.value} onChange={(e) => setTheme(e.currentTarget.value as Theme)}>
            {(['system', 'light', 'dark'] as const).map((x) => (
              <option key={x} value={x}>
                {t(`theme.${x}`)}
              </option>
            ))}
          </select>
        </span>
      </header>
      <main aria-label={t('page.title')}>
        <XrayGenerator doc={doc} start={start} />
      </main>
      <div class="toasts">
        {toasts.value.map((x) => (
          <div key={x.id} class={`note ${x.kind}`} role={x.kind === 'error' ? 'alert' : 'status'}>
            <div class="grow">{x.text}</div>
            <button type="button" class="icon plain" aria-label={t('close')} onClick={() => dismiss(x.id)}>
              <Icon name="close" />
            </button>
          </div>
        ))}
      </div>
    </>
  )
}

showHidden()
startTheme()
const root = document.getElementById('app')!
const [, core] = await Promise.all([startLanguage(), load().catch((err: unknown) => (err instanceof Error ? err : new Error(String(err))))])
render(
  core instanceof Error ? (
    <main>
      <Note kind="error">{core.message}</Note>
    </main>
  ) : (
    <Page call={core} />
  ),
  root,
)
