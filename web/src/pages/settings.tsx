import { failed } from '../lib/announce'
import { logout, session } from '../lib/api'
import { status } from '../lib/events'
import { dateTime, number } from '../lib/format'
import { type Language, language, languages, t, useLanguage } from '../lib/i18n'
import { setTheme, type Theme, theme } from '../lib/theme'
import { Icon } from '../ui/icon'
import { Mono, Title } from '../ui/parts'

export default function SettingsPage() {
  const s = status.value
  const who = session.value
  return (
    <>
      <Title page="nav.settings" />
      <div class="split">
        <section class="card" aria-label={t('settings.look')}>
          <header>
            <h2>{t('settings.look')}</h2>
          </header>
          <div class="body stack">
            <label class="field">
              <span>{t('language')}</span>
              <select value={language.value} onChange={(e) => void useLanguage(e.currentTarget.value as Language, true).catch(failed)}>
                {Object.entries(languages).map(([id, l]) => (
                  <option key={id} value={id} lang={id}>
                    {l.name}
                  </option>
                ))}
              </select>
            </label>
            <fieldset class="plain">
              <legend>{t('theme')}</legend>
              {(['system', 'light', 'dark'] as Theme[]).map((x) => (
                <label key={x} class="check">
                  <input type="radio" name="theme" checked={theme.value === x} onChange={() => setTheme(x)} />
                  {t(`theme.${x}`)}
                </label>
              ))}
            </fieldset>
          </div>
        </section>
        <section class="card" aria-label={t('settings.session')}>
          <header>
            <h2>{t('settings.session')}</h2>
          </header>
          <div class="body stack">
            {who && (
              <dl class="facts">
                <dt>{t('session.role')}</dt>
                <dd>{t(`role.${who.role}`)}</dd>
                <dt>{t('session.by')}</dt>
                <dd>{t(`by.${who.by}`)}</dd>
                {who.until && (
                  <>
                    <dt>{t('session.until')}</dt>
                    <dd>{dateTime(new Date(who.until))}</dd>
                  </>
                )}
              </dl>
            )}
            <p class="muted">{t('session.tokens')}</p>
            <pre class="block">netpolicy token --renew</pre>
            {who?.by === 'cookie' && (
              <div class="bar">
                <button type="button" onClick={() => void logout().catch(failed)}>
                  <Icon name="out" />
                  {t('logout')}
                </button>
              </div>
            )}
          </div>
        </section>
        {s && (
          <section class="card" aria-label={t('settings.about')}>
            <header>
              <h2>{t('settings.about')}</h2>
            </header>
            <div class="body">
              <dl class="facts">
                <dt>netpolicyd</dt>
                <dd>
                  <Mono>{s.version}</Mono>
                </dd>
                <dt>{t('about.mode')}</dt>
                <dd>{t(`mode.${s.mode}`)}</dd>
                <dt>{t('about.started')}</dt>
                <dd>{dateTime(new Date(s.started))}</dd>
                <dt>{t('nav.policy')}</dt>
                <dd>
                  <Mono>
                    {s.policy.file} {s.policy.hash}
                  </Mono>
                </dd>
                <dt>{t('about.decisions')}</dt>
                <dd>{number(s.decisions)}</dd>
                <dt>{t('about.sources')}</dt>
                <dd>
                  <ul>
                    {s.sources.map((x) => (
                      <li key={x.name}>
                        <Mono>{x.name}</Mono> {x.error ? <span class="bad">{x.error}</span> : <span class="tag ok">{t('about.on')}</span>}
                      </li>
                    ))}
                  </ul>
                </dd>
                {Object.entries(s.drops)
                  .filter(([, n]) => n > 0)
                  .map(([queue, n]) => (
                    <>
                      <dt>{t('about.lost')}</dt>
                      <dd>
                        <Mono>{queue}</Mono> {number(n)}
                      </dd>
                    </>
                  ))}
              </dl>
            </div>
          </section>
        )}
      </div>
    </>
  )
}
