// Figures of the garbage collector of metadata: how often, how much, how long.
import type { CollectionFigures } from '../../actors/gc/protocol.ts';
import type { Exposition } from './exposition.ts';

export function addCollectionFigures(exposition: Exposition, figures: CollectionFigures): void {
  for (const outcome of ['completed', 'failed'] as const) {
    exposition.add('troupe_collections_total', 'counter', 'Collections of metadata.', figures[outcome], {
      outcome,
    });
  }
  const { marked, removed, longestSweepMs } = figures;
  exposition.add('troupe_collection_marked_total', 'counter', 'Records found to be in use.', marked);
  for (const [kind, count] of Object.entries(removed)) {
    exposition.add('troupe_collection_removed_total', 'counter', 'Records removed.', count, { kind });
  }
  for (const step of ['mark', 'sweep', 'cleanup'] as const) {
    const seconds = figures[`${step}Ms`] / 1000;
    exposition.add('troupe_collection_seconds_total', 'counter', 'Time in collections.', seconds, { step });
  }
  exposition.add(
    'troupe_collection_longest_transaction_seconds',
    'gauge',
    'The longest transaction of any collection.',
    longestSweepMs / 1000,
  );
}
