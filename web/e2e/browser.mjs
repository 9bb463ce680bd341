// What the browser tests share: a browser, and pages that note whatever must not be.
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { chromium } from 'playwright-core'

const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js')

export async function browser() {
  const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', process.env.CHROMIUM].find((p) => p && existsSync(p))
  if (!executablePath) throw new Error('there is no Chromium: apt-get install --no-install-recommends chromium')
  return chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] })
}

// open makes a page. `wrong` collects errors of scripts, violations of the content
// security policy, messages of error to the console, and requests to any other host.
export async function open(b, url, options = {}) {
  const context = await b.newContext({ viewport: { width: 1280, height: 800 }, locale: 'en-GB', reducedMotion: 'reduce', ...options })
  const page = await context.newPage()
  const wrong = []
  const origin = new URL(url).origin
  page.on('pageerror', (e) => wrong.push(`error: ${e.stack}`))
  page.on('console', (m) => m.type() === 'error' && !/status of (401|4\d\d|5\d\d)/.test(m.text()) && wrong.push(`console: ${m.text()}`))
  page.on('request', (r) => !r.url().startsWith(origin) && !/^(data|blob):/.test(r.url()) && wrong.push(`request: ${r.url()}`))
  await page.addInitScript(() => {
    globalThis.violations = []
    addEventListener('securitypolicyviolation', (e) => globalThis.violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber} ${e.sample}`))
  })
  page.wrong = async () => [...wrong, ...(await page.evaluate(() => globalThis.violations))]
  return page
}

// go shows a page of the interface, and waits until it is drawn.
export async function go(page, place, title) {
  await page.evaluate((p) => (location.hash = `#/${p}`), place)
  await page.locator('main[aria-busy=false] h1#page', { hasText: title }).waitFor()
}

// axeFindings are what axe-core finds wrong with the page as it stands, as lines.
export async function axeFindings(page) {
  // addScriptTag would need 'unsafe-inline'; evaluating goes past the policy.
  if (!(await page.evaluate(() => 'axe' in globalThis))) await page.evaluate(await readFile(axe, 'utf8'))
  const { violations } = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations'] }),
  )
  return violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.target.join(' ')}: ${n.failureSummary?.split('\n')[1]?.trim()} ${n.html.slice(0, 120)}`))
}
