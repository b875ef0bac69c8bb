// Imported before all else of a plugin: see law.js.

import { enforce } from './law.js';

enforce();
