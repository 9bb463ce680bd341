// Opens policy.npl in VS Code (code-server), with the extension of ../vscode and the
// `netpolicy lsp` of this tree, goes to the first problem and takes a picture.
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import puppeteer from 'puppeteer-core';

const here = dirname(fileURLToPath(import.meta.url));
const picture = resolve(process.argv[2]);
const work = mkdtempSync(join(tmpdir(), 'shot-'));
const port = await freePort();

const program = join(work, 'netpolicy');
execFileSync('go', ['build', '-o', program, './cmd/netpolicy'], { cwd: join(here, '../..'), stdio: 'inherit' });

const extension = join(work, 'extensions/netpolicy.netpolicy-0.1.0');
for (const part of ['package.json', 'language-configuration.json', 'syntaxes', 'dist']) {
	cpSync(join(here, '../vscode', part), join(extension, part), { recursive: true });
}
const folder = join(work, 'router');
mkdirSync(folder);
cpSync(join(here, 'policy.npl'), join(folder, 'policy.npl'));
mkdirSync(join(work, 'data/User'), { recursive: true });
writeFileSync(
	join(work, 'data/User/settings.json'),
	JSON.stringify({
		'netpolicy.path': program,
		'editor.fontFamily': 'DejaVu Sans Mono',
		'editor.fontSize': 15,
		'editor.minimap.enabled': false,
		'telemetry.telemetryLevel': 'off',
		'update.mode': 'none',
		'workbench.activityBar.location': 'hidden',
		'workbench.colorTheme': 'Default Dark Modern',
		'workbench.startupEditor': 'none',
		'workbench.tips.enabled': false,
		'chat.commandCenter.enabled': false,
		'window.commandCenter': false,
	}),
);

const editor = spawn(
	process.execPath,
	[
		join(here, 'node_modules/code-server/out/node/entry.js'),
		...['--config', join(work, 'config.yaml'), '--auth', 'none', '--bind-addr', `127.0.0.1:${port}`],
		...['--user-data-dir', join(work, 'data'), '--extensions-dir', join(work, 'extensions')],
		...['--disable-telemetry', '--disable-update-check', '--disable-workspace-trust', '--disable-getting-started-override'],
		folder,
	],
	{ stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, EXTENSIONS_GALLERY: '{}' } }, // asks nobody for extensions
);
let browser;
try {
	await listening(port);
	browser = await puppeteer.launch({
		executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
		args: ['--no-sandbox', '--disable-gpu'],
		defaultViewport: { width: 1180, height: 640 },
	});
	const page = await browser.newPage();
	const file = `vscode-remote://127.0.0.1:${port}${join(folder, 'policy.npl')}`;
	const payload = encodeURIComponent(JSON.stringify([['openFile', file]]));
	await page.goto(`http://127.0.0.1:${port}/?folder=${encodeURIComponent(folder)}&payload=${payload}`);
	// The squiggle is there once the server has answered.
	await page.waitForSelector('.view-overlays .squiggly-error', { timeout: 90_000 });
	await page.evaluate(() => document.querySelector('.notifications-toasts')?.remove());
	await page.click('.view-lines');
	await press(page, 'Control', 'b'); // no side bar
	await press(page, 'Control', 'Home');
	await page.keyboard.press('F8'); // go to the next problem
	await page.waitForSelector('.marker-widget');
	await new Promise((done) => setTimeout(done, 1500)); // the widget unfolds
	const said = await page.$eval('.marker-widget', (e) => e.textContent ?? '');
	if (!said.includes('NP110')) {
		throw new Error(`the editor shows ${JSON.stringify(said)}`);
	}
	await page.screenshot({ path: picture });
	console.log(`${picture}: ${said}`);
} finally {
	await browser?.close();
	const ended = new Promise((done) => editor.once('exit', done));
	editor.kill();
	await ended;
	rmSync(work, { recursive: true, force: true });
}

async function press(page, modifier, key) {
	await page.keyboard.down(modifier);
	await page.keyboard.press(key);
	await page.keyboard.up(modifier);
}

function freePort() {
	return new Promise((done) => {
		const server = createServer().listen(0, '127.0.0.1', () => {
			const { port } = server.address();
			server.close(() => done(port));
		});
	});
}

async function listening(port) {
	for (let i = 0; i < 300; i++) {
		try {
			await fetch(`http://127.0.0.1:${port}/healthz`);
			return;
		} catch {
			await new Promise((done) => setTimeout(done, 200));
		}
	}
	throw new Error('the editor does not start');
}
