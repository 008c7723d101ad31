// Figures in the text format that Prometheus reads (prometheus.io/docs/instrumenting/exposition_formats).

export type Labels = Readonly<Record<string, string>>;
export type Kind = 'counter' | 'gauge';

interface Family {
  readonly kind: Kind;
  readonly help: string;
  readonly lines: string[];
}

export const contentType = 'text/plain; version=0.0.4; charset=utf-8';

/** Gathers samples by family, whatever the order in which they come. */
export class Exposition {
  readonly #families = new Map<string, Family>();

  add(name: string, kind: Kind, help: string, value: number | bigint, labels: Labels = {}): void {
    let family = this.#families.get(name);
    if (family === undefined) {
      family = { kind, help, lines: [] };
      this.#families.set(name, family);
    }
    const shown = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
    family.lines.push(`${name}${shown.length === 0 ? '' : `{${shown.join(',')}}`} ${value}`);
  }

  text(): string {
    const parts: string[] = [];
    for (const [name, { kind, help, lines }] of [...this.#families].sort(([a], [b]) => (a < b ? -1 : 1))) {
      parts.push(`# HELP ${name} ${escapeHelp(help)}`, `# TYPE ${name} ${kind}`, ...lines);
    }
    return `${parts.join('\n')}\n`;
  }
}

function escapeHelp(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}
