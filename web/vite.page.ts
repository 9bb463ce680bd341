import { join } from 'node:path'
import { defineConfig } from 'vite'
import { shared } from './vite.config.ts'

// The generator as a page of its own, into dist-page/; scripts/page.sh adds the core.
export default defineConfig({
  ...shared,
  root: join(import.meta.dirname, 'page'),
  publicDir: join(import.meta.dirname, 'public'),
  base: './',
  build: { ...shared.build, outDir: join(import.meta.dirname, 'dist-page'), emptyOutDir: true },
})
