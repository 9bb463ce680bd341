import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Plugin, UserConfig } from 'vite'
import { defineConfig } from 'vitest/config'

const folder = join(import.meta.dirname, 'src/i18n')
const read = (file: string): Record<string, string> => JSON.parse(readFileSync(file, 'utf8'))
const list = join(folder, 'keys.js')
const keys = [...new Set(readdirSync(folder).flatMap((f) => (f.endsWith('.json') ? Object.keys(read(join(folder, f))) : [])))].sort()

// catalogues packs the keys once for all languages: a catalogue is made of the list of them
// and its own messages, with nothing where it has no such plural form.
const catalogues: Plugin = {
  name: 'catalogues',
  apply: 'build',
  enforce: 'pre', // of what Vite makes of JSON
  resolveId: (id) => (id === 'catalogue-keys' ? list : undefined),
  load(id) {
    if (id === list) return `export default ${JSON.stringify(keys.join(' '))}.split(' ')`
    if (dirname(id) !== folder || !id.endsWith('.json')) return undefined
    const own = read(id)
    const messages = JSON.stringify(keys.map((k) => own[k] ?? 0))
    return { code: `import keys from 'catalogue-keys'; const own = ${messages}; export default Object.fromEntries(keys.map((k, i) => [k, own[i] || undefined]))`, moduleType: 'js' }
  },
}

// What both builds share: modern browsers only, no inlined assets (the content
// security policy takes scripts, styles and pictures from the server alone).
export const shared: Pick<UserConfig, 'oxc' | 'build' | 'plugins'> = {
  plugins: [catalogues],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    target: 'es2022',
    cssTarget: ['chrome125', 'firefox125', 'safari17.5'],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
}

// The interface that netpolicyd serves, into dist/, which the Go package embeds.
// The daemon to develop against: NETPOLICY_WEB=http://127.0.0.1:PORT npx vite
export default defineConfig({
  ...shared,
  base: './',
  server: process.env.NETPOLICY_WEB
    ? { proxy: { '/api': { target: process.env.NETPOLICY_WEB, changeOrigin: true } } }
    : {},
  test: { include: ['src/**/*.test.ts', 'src/**/*.test.tsx'] },
})
