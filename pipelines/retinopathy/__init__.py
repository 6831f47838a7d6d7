"""Diabetic retinopathy in fundus photographs (Gulshan et al., JAMA 2016)."""
