// The Version service.
import { VersionDefinition } from '../proto/gen/services/version/v1/version.ts';
import { type BoundService, bindService } from './bind.ts';

export function versionService(answer: { version: string; revision: string }): BoundService {
  const { version, revision } = answer;
  return bindService(VersionDefinition, { version: () => ({ version, revision }) }, { namespace: 'none' });
}
