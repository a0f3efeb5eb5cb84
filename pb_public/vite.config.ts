import { fileURLToPath } from 'node:url';
import { tanstackRouter } from '@tanstack/router-plugin/vite';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

// The panel a development page talks to. Never used by a build: there the page comes from the panel.
const panel = process.env.MAMBA_PANEL ?? 'http://127.0.0.1:8090';

export default defineConfig({
  plugins: [
    tanstackRouter({
      target: 'react',
      autoCodeSplitting: true,
      routesDirectory: './src/pages',
      generatedRouteTree: './src/routes.gen.ts',
      quoteStyle: 'single',
      semicolons: true,
      routeFileIgnorePattern: '\\.test\\.|\\.css$',
    }),
    react(),
  ],
  resolve: { alias: { '@': fileURLToPath(new URL('./src', import.meta.url)) } },
  build: {
    target: 'es2022',
    outDir: 'dist',
    emptyOutDir: false, // build/clean.mjs empties it, but for the checked-in fallback.html
    assetsInlineLimit: 0, // the policy allows no data: fonts, and hashed files are cached for ever
    reportCompressedSize: false,
    chunkSizeWarningLimit: 600,
  },
  server: { host: '127.0.0.1', port: 5173, proxy: { '/api': { target: panel, ws: true } } },
  test: {
    environment: 'jsdom',
    include: ['src/**/*.test.{ts,tsx}'],
    setupFiles: ['./src/testing.ts'],
    restoreMocks: true,
    unstubGlobals: true,
    pool: 'threads',
    testTimeout: 30_000, // the first render of a file takes seconds on a busy machine
  },
});
