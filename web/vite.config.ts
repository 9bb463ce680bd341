import type { UserConfig } from 'vite'
import { defineConfig } from 'vitest/config'

// What both builds share: modern browsers only, no inlined assets (the content
// security policy takes scripts, styles and pictures from the server alone).
export const shared: Pick<UserConfig, 'oxc' | 'build'> = {
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
