//! A Python package of many modules with docstrings and small functions, as a large library has them.

use crate::model::Prose;
use std::fmt::Write;

/// Modules in a subpackage.
const MODULES_EACH: usize = 60;

/// Functions of a module, and sentences in the docstring of each.
const FUNCTIONS: usize = 10;
const SENTENCES: usize = 11;

/// A package: subpackages of modules, all of which its `__init__.py` imports.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    /// What it is imported as.
    pub name: String,
    /// Modules in all subpackages.
    pub modules: usize,
    /// Tells its text from others.
    pub seed: u64,
}

/// One source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its path below the package's parent.
    pub path: String,
    /// What it says.
    pub source: String,
}

impl Package {
    /// Every file of the package.
    pub(crate) fn files(&self) -> impl Iterator<Item = Module> + '_ {
        let mut prose = Prose::new(self.seed);
        let inits = std::iter::once(self.root()).chain((0..self.subpackages()).map(|part| self.init(part)));
        inits.chain((0..self.modules).map(move |number| self.module(number, &mut prose)))
    }

    fn subpackages(&self) -> usize {
        self.modules.div_ceil(MODULES_EACH)
    }

    fn root(&self) -> Module {
        let imports = (0..self.subpackages()).map(|part| format!("from . import part_{part:02}\n"));
        Module { path: format!("{}/__init__.py", self.name), source: imports.collect() }
    }

    fn init(&self, part: usize) -> Module {
        let numbers = part * MODULES_EACH..((part + 1) * MODULES_EACH).min(self.modules);
        let source = numbers.map(|number| format!("from . import module_{number:04}\n")).collect();
        Module { path: format!("{}/part_{part:02}/__init__.py", self.name), source }
    }

    fn module(&self, number: usize, prose: &mut Prose) -> Module {
        let mut source = String::from("\"\"\"");
        prose.sentence(&mut source);
        source.push_str("\"\"\"\n\nimport math\n");
        for function in 0..FUNCTIONS {
            append_function(&mut source, function, prose);
        }
        let path = format!("{}/part_{:02}/module_{number:04}.py", self.name, number / MODULES_EACH);
        Module { path, source }
    }
}

fn append_function(source: &mut String, number: usize, prose: &mut Prose) {
    let name = prose.word();
    let _ = write!(source, "\n\ndef {name}_{number}(values, scale={number}.0):\n    \"\"\"");
    for _ in 0..SENTENCES {
        prose.sentence(source);
        source.push_str("\n    ");
    }
    let _ = write!(
        source,
        "\"\"\"\n    total = 0.0\n    for value in values:\n        total += math.fabs(value) * scale\n    \
         return total / max(len(values), {})\n",
        number + 1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_has_all_its_modules_once() {
        let package = Package { name: "big".into(), modules: 130, seed: 1 };
        let files: Vec<Module> = package.files().collect();
        assert_eq!(files.len(), 1 + 3 + 130);
        let imports = files.iter().filter(|file| file.path.ends_with("__init__.py"));
        let imported: usize = imports.map(|file| file.source.lines().count()).sum();
        assert_eq!(imported, 3 + 130);
        let bytes: usize = files.iter().map(|file| file.source.len()).sum();
        assert!((8_000..20_000).contains(&(bytes / 130)), "{} bytes each", bytes / 130);
    }
}
