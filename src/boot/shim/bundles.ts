// Where a shim finds the bundles of others: it is told its own alone.
import { basename, dirname, join } from 'node:path';
import { taskBundles } from '../../api/model/shim-group.ts';

/** Where the containers of a sandbox have their bundles, given the sandbox's own. */
export function bundlesOfContainers(bundle: string): string {
  const namespaceDirectory = dirname(bundle);
  const state = dirname(dirname(namespaceDirectory));
  return join(state, taskBundles, basename(namespaceDirectory));
}
