// The image engine of the daemon: archives in, archives out.
import type { ImageEngine } from '../../../api/model/ports/image-engine.ts';
import { exportImages } from './export.ts';
import { importArchive } from './import.ts';
import { labelImported } from './labels.ts';

export const imageEngine: ImageEngine = { exportImages, importArchive, labelImported };
