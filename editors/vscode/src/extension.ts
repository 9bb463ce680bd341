// The extension starts `netpolicy lsp` and hands it the policies that are open.
import * as vscode from 'vscode';
import { LanguageClient } from 'vscode-languageclient/node';

let client: LanguageClient | undefined;
// Starts and stops follow each other: a setting may change while the server starts.
let turn: Promise<void> = Promise.resolve();

export function activate(context: vscode.ExtensionContext): Promise<void> {
	context.subscriptions.push(
		vscode.commands.registerCommand('netpolicy.restart', restart),
		vscode.workspace.onDidChangeConfiguration((e) => (e.affectsConfiguration('netpolicy') ? restart() : undefined)),
		vscode.workspace.onDidGrantWorkspaceTrust(restart),
	);
	return restart();
}

export function deactivate(): Promise<void> {
	return (turn = turn.then(stop));
}

function restart(): Promise<void> {
	return (turn = turn.then(stop).then(start));
}

async function stop(): Promise<void> {
	const old = client;
	client = undefined;
	await old?.dispose();
}

async function start(): Promise<void> {
	const settings = vscode.workspace.getConfiguration('netpolicy');
	const command = settings.get('path', 'netpolicy');
	const patterns = settings.get<string[]>('yaml', []);
	client = new LanguageClient(
		'netpolicy',
		'netpolicy',
		{ command, args: ['lsp'] },
		{
			documentSelector: [{ language: 'npl' }, ...patterns.map((pattern) => ({ language: 'yaml', pattern }))],
		},
	);
	try {
		await client.start();
	} catch (cause) {
		const settingsButton = 'Open settings';
		const answer = vscode.window.showErrorMessage(
			`netpolicy: \`${command} lsp\` does not start (${cause instanceof Error ? cause.message : cause}). Set netpolicy.path.`,
			settingsButton,
		);
		void answer.then((button) =>
			button === settingsButton ? vscode.commands.executeCommand('workbench.action.openSettings', 'netpolicy.path') : undefined,
		);
	}
}
